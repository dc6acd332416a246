"""What `deepscaler data prepare` leaves behind, whole or not at all.

train.parquet         rows to train on (prepare.PREPARED), or in verl's or TRL's layout
validation.parquet    the same, kept out of training; only when asked for
dropped.parquet       every other row: source, row, step, reason, detail, problem, answer, record (the row as JSON)
contamination.json    benchmark -> its problems that stood in the training rows, with the rows
contamination.html    the matched pairs side by side; duplicates and conflicts below them
manifest.json         counts of every step, hashes of inputs and outputs, licences, versions, settings
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepscaler.data.benchmarks.load import LoadedBenchmark
from deepscaler.data.prepare.pair_page import pair_page
from deepscaler.data.prepare.preparation import Preparation, Settings
from deepscaler.data.sources.layouts import Columns, Layout, write_layout
from deepscaler.observability.environment import git_commit, package_versions
from deepscaler.observability.files import directory_at_once

Manifest = dict[str, Any]


def write_preparation(
    done: Preparation,
    benchmarks: Sequence[LoadedBenchmark],
    settings: Settings,
    out: Path,
    *,
    layout: Layout = "plain",
    recorded: Mapping[str, object] | None = None,
) -> Manifest:
    """Write all files into `out` by one rename and return the manifest. `recorded` is added to its settings."""
    columns = settings.columns
    with directory_at_once(out) as directory:
        write_split(done.train, directory / "train.parquet", layout, columns, "train")
        if len(done.validation):
            write_split(done.validation, directory / "validation.parquet", layout, columns, "validation")
        pq.write_table(done.dropped_table(), directory / "dropped.parquet", compression="zstd")
        _write_json(directory / "contamination.json", contamination(done, benchmarks))
        (directory / "contamination.html").write_text(pair_page(done, benchmarks), encoding="utf-8")
        manifest = _manifest(done, benchmarks, settings, layout, recorded or {})
        manifest["outputs"] = [_output(path) for path in sorted(directory.iterdir())]
        _write_json(directory / "manifest.json", manifest)
    return manifest


def write_split(table: pa.Table, path: Path, layout: Layout, columns: Columns, split: str) -> None:
    """One Parquet file of prepared rows: in the plain layout with PREPARED's names, which every recipe reads whatever
    columns it names, so that one recipe takes the raw file and the prepared one."""
    if layout != "plain":
        table = pa.Table.from_pylist(list(write_layout(table.to_pylist(), layout, columns.instruction, split)))
    pq.write_table(table, path, compression="zstd")


def contamination(done: Preparation, benchmarks: Sequence[LoadedBenchmark]) -> dict[str, object]:
    """Which test problems stood in the training rows, so that a score on the others can be given beside the full one.

    `problems` lists ids as `load_benchmark` gives them. `similar` are other problems in the same words, which stay.
    """
    table = done.compared
    files, rows = table["file"].to_pylist(), table["row"].to_pylist()
    report: dict[str, object] = {}
    for benchmark in benchmarks:
        matches: dict[bool, list[dict[str, object]]] = {True: [], False: []}
        for finding in done.findings:
            if finding.benchmark == benchmark.name:
                matches[finding.contaminates].append(
                    {
                        "id": finding.problem.id,
                        "source": files[finding.row],
                        "row": rows[finding.row],
                        "match": finding.match.value,
                        "jaccard": round(finding.jaccard, 4),
                        "containment": round(finding.containment, 4),
                    }
                )
        report[benchmark.name] = {
            "sha256": benchmark.sha256,
            "num_problems": len(benchmark.problems),
            "problems": sorted({str(match["id"]) for match in matches[True]}, key=_by_number),
            "matches": matches[True],
            "similar": matches[False],
        }
    return {"version": 1, "benchmarks": report}


def _by_number(identity: str) -> tuple[str, int]:
    name, _, number = identity.rpartition("/")
    return name, int(number)


def _manifest(
    done: Preparation,
    benchmarks: Sequence[LoadedBenchmark],
    settings: Settings,
    layout: Layout,
    recorded: Mapping[str, object],
) -> Manifest:
    table = done.compared
    places = list(zip(table["file"].to_pylist(), table["row"].to_pylist(), strict=True))
    answers = table["answer"].to_pylist()
    inputs = [
        {
            "name": file.name,
            "rows": count,
            "sha256": sha256(file.path),
            "revision": file.revision,
            "licence": file.licence,
        }
        for file, count in zip(done.files, done.file_rows, strict=True)
    ]
    return {
        "version": 1,
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "settings": {**asdict(settings), "layout": layout, **recorded},
        "inputs": inputs,
        "benchmarks": [
            {"name": b.name, "problems": len(b.problems), "sha256": b.sha256, "registered": b.registered}
            for b in benchmarks
        ],
        "steps": [{"step": s.name, "in": s.rows_in, "out": s.rows_out, "dropped": s.reasons} for s in done.steps],
        "rows": {"train": len(done.train), "validation": len(done.validation)},
        "sources": dict(Counter(done.train["source"].to_pylist()).most_common()),
        "difficulty": difficulty_counts(done.train),
        "conflicts": [
            [{"source": places[row][0], "row": places[row][1], "answer": answers[row]} for row in conflict.rows]
            for conflict in done.conflicts
        ],
        "warnings": done.warnings,
        "versions": package_versions(("deepscaler", "numpy", "pyarrow", "mpmath", "transformers", "tokenizers")),
        "git_commit": git_commit(),
    }


def difficulty_counts(table: pa.Table) -> dict[str, int]:
    """Rows per whole difficulty, lowest first, and how many carry no tag."""
    tags = [None if tag is None else round(tag) for tag in table["difficulty"].to_pylist()]
    counts = Counter(tag for tag in tags if tag is not None)
    counted = {str(tag): counts[tag] for tag in sorted(counts)}
    return counted | ({"none": tags.count(None)} if None in tags else {})


def _output(path: Path) -> dict[str, object]:
    rows = {"rows": pq.read_metadata(path).num_rows} if path.suffix == ".parquet" else {}
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256(path), **rows}


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
