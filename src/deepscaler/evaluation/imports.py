"""Completions that others saved (JSONL or Parquet) become a samples table that is graded and compared like our own.

A row of the file holds one completion or a list of them. Its problem is found by id (`aime24/3`), by its row in the
benchmark's file (3), or by its text; references always come from the benchmark, never from the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deepscaler.config.evaluation import SuiteSection
from deepscaler.evaluation.output_files import verdict_fields, write_rows
from deepscaler.evaluation.regrade import graded
from deepscaler.evaluation.results import Results, compute_results, write_results
from deepscaler.evaluation.samples import FINISH_REASONS, SAMPLES_FILE, UNKNOWN_FINISH, read_digested
from deepscaler.json_text import parse_json
from deepscaler.observability.counts import counted
from deepscaler.observability.files import new_directory
from deepscaler.observability.problem_texts import write_problem_texts
from deepscaler.protocols import Grader
from deepscaler.types import Problem

FIELDS = ("completion", "problem", "benchmark", "sample_index", "num_tokens", "finish_reason", "seed")
REQUIRED = ("completion", "problem")
ROWS_AT_ONCE = 256
_INSTRUCTION = " ".join(SuiteSection().instruction.split())


@dataclass(frozen=True, slots=True)
class ImportedFile:
    """A file of completions. columns: our field -> the file's column; a dot leads into an object: `doc.id`.

    benchmark: of every row, where no column says it. sets: benchmark -> its problems.
    """

    path: Path
    columns: Mapping[str, str]
    sets: Mapping[str, Sequence[Problem]]
    benchmark: str | None = None
    thinking_prefilled: bool = False
    counts: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in FIELDS:
                raise ValueError(f"--map {name}=…: no such field; there are {', '.join(FIELDS)}")
        for name in REQUIRED:
            if name not in self.columns:
                raise ValueError(f"say which column holds the {name}: --map {name}=COLUMN")
        if self.benchmark is None and "benchmark" not in self.columns and len(self.sets) != 1:
            raise ValueError("say which benchmark the problems belong to: --benchmark NAME or --map benchmark=COLUMN")


def import_completions(
    file: ImportedFile, out: Path, grader: Grader, settings: Mapping[str, object]
) -> tuple[Results, int]:
    """Grade every completion and write samples.parquet and results.json to `out`, which must not hold an evaluation.

    Returns the results and the number of problems without any completion, which are left out. Raises ValueError naming
    file, row and column; nothing is written then.
    """
    if (out / SAMPLES_FILE).exists():
        raise ValueError(f"{out} holds an evaluation already; give another --out")
    letters = {name for name, problems in file.sets.items() if problems and problems[0].answer_kind == "letter"}
    rows = graded(_ungraded_rows(file), grader, file.thinking_prefilled, letters)
    with new_directory(out):
        write_rows(out / SAMPLES_FILE, ({**row, **verdict_fields(verdict)} for row, verdict in rows))
        try:
            table = read_digested(out)
            if not len(table):
                raise ValueError(f"{file.path} holds no completion")
        except ValueError:
            (out / SAMPLES_FILE).unlink()
            raise
    used = {name for name, _ in file.counts}
    answered = {name: [p for p in file.sets[name] if (name, p.id) in file.counts] for name in file.sets if name in used}
    write_problem_texts(out, answered)
    missing = sum((name, p.id) not in file.counts for name in used for p in file.sets[name])
    words = ("has", "is") if missing == 1 else ("have", "are")
    left_out = f"{counted(missing, 'problem')} {words[0]} no completion in {file.path.name} and {words[1]} left out"
    warnings = [left_out] if missing else []
    recorded = {"file": file.path.name, "sha256": _sha256(file.path), "columns": dict(file.columns)}
    all_settings = {
        **settings,
        "model": {"name": file.path.stem},
        "imported": recorded,
        "template": {"thinking_prefilled": file.thinking_prefilled},
        **({"datasets": {name: {"answer_kind": "letter"} for name in sorted(letters & used)}} if letters else {}),
    }
    results = compute_results(table, all_settings, warnings=warnings)
    write_results(results, out)
    return results, missing


def _ungraded_rows(file: ImportedFile) -> Iterator[dict[str, object]]:
    problems = _Lookup(file.sets)
    rows: dict[tuple[str, str, int], int] = {}
    for number, record in enumerate(_records(file.path)):
        where = f"{file.path}, row {number}"
        values = {name: _value(record, column, where) for name, column in file.columns.items()}
        benchmark = _benchmark(file, values, where)
        problem = problems.find(benchmark, values["problem"], f"{where}, field {file.columns['problem']}")
        place = f"{where}, field {file.columns['completion']}"
        texts = _texts(values["completion"], place)
        for offset, text in enumerate(texts):
            index = values.get("sample_index")
            if index is None or len(texts) > 1:
                index = file.counts.get((benchmark, problem.id), 0)
            key = (benchmark, problem.id, _whole(index, f"{where}, field sample_index"))
            if key in rows:
                raise ValueError(
                    f"{where}: sample {benchmark}/{problem.id}/{index} appears more than once, first in row "
                    f"{rows[key]}; keep one of the rows, or map sample_index to a column that tells them apart"
                )
            rows[key] = number
            file.counts[benchmark, problem.id] = file.counts.get((benchmark, problem.id), 0) + 1
            yield {
                "benchmark": benchmark,
                "problem_id": problem.id,
                "sample_index": key[2],
                "completion": text,
                "num_tokens": _count(_each(values, "num_tokens", offset, len(texts), where), f"{where}, num_tokens"),
                "finish_reason": _finish(_each(values, "finish_reason", offset, len(texts), where), where),
                "seed": _count(_each(values, "seed", offset, len(texts), where), f"{where}, seed"),
                "references": list(problem.references),
                "source": problem.source or None,
                "difficulty": problem.difficulty,
                "tolerance": problem.tolerance,
            }


class _Lookup:
    """Problems by id, row and text."""

    def __init__(self, sets: Mapping[str, Sequence[Problem]]) -> None:
        self._sets = sets
        self._ids = {(name, p.id): p for name, problems in sets.items() for p in problems}
        self._texts = {(name, _plain(p.prompt)): p for name, problems in sets.items() for p in problems}

    def find(self, benchmark: str, value: object, where: str) -> Problem:
        problems = self._sets[benchmark]
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value < len(problems):
                return problems[value]
            raise ValueError(f"{where}: row {value}, but {benchmark} has {counted(len(problems), 'problem')}")
        if isinstance(value, str):
            text = _plain(value)
            asked = text.removesuffix(_INSTRUCTION).rstrip()
            found = self._ids.get((benchmark, value)) or self._texts.get((benchmark, text))
            found = found or self._texts.get((benchmark, asked))
            if found is not None:
                return found
        raise ValueError(
            f"{where}: {_short(value)} is no problem of {benchmark}; give its id, its row, or its text as in the "
            "benchmark's file, with or without the instruction that `deepscaler eval` adds"
        )


def _records(path: Path) -> Iterator[dict[str, object]]:
    if path.suffix == ".parquet":
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=ROWS_AT_ONCE):
                yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path}: not a readable Parquet file ({error})") from error
        return
    if path.suffix not in (".jsonl", ".ndjson"):
        raise ValueError(f"{path}: unknown format; known are .jsonl and .parquet")
    with path.open("rb") as lines:
        for number, line in enumerate(filter(bytes.strip, lines)):
            try:
                record = parse_json(line.decode("utf-8-sig" if number == 0 else "utf-8"))
            except ValueError as error:
                raise ValueError(f"{path}, row {number}: not JSON in UTF-8 ({error})") from error
            if not isinstance(record, dict):
                raise ValueError(f"{path}, row {number}: expected an object, found {type(record).__name__}")
            yield record


def _value(record: Mapping[str, object], column: str, where: str) -> object:
    value: object = record
    for part in [column] if column in record else column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            known = ", ".join(map(str, record))
            raise ValueError(f"{where}: no field {column}; it has {known}")
        value = value[part]
    return value


def _benchmark(file: ImportedFile, values: Mapping[str, object], where: str) -> str:
    name = values.get("benchmark", file.benchmark or next(iter(file.sets)))
    if not isinstance(name, str) or name not in file.sets:
        raise ValueError(f"{where}: benchmark {_short(name)} is not among {', '.join(file.sets)}")
    return name


def _texts(value: object, where: str) -> list[str]:
    """One text, a list of texts, or a list in a list, as the harness saves repeats."""
    if isinstance(value, str):
        texts = [value]
    elif isinstance(value, list) and value:
        texts = [text for item in value for text in _texts(item, where)]
    else:
        raise ValueError(f"{where}: expected a completion or a list of them, found {_short(value)}")
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{where}: broken Unicode at character {error.start}") from error
    return texts


def _each(values: Mapping[str, object], name: str, offset: int, count: int, where: str) -> object:
    """The value of one of a row's completions: of a list its item, else the value itself."""
    value = values.get(name)
    if not isinstance(value, list):
        return value
    if len(value) != count:
        raise ValueError(f"{where}: {counted(len(value), 'value')} of {name} for {counted(count, 'completion')}")
    return value[offset]


def _finish(value: object, where: str) -> str:
    if value is None:
        return UNKNOWN_FINISH
    if not isinstance(value, str) or value not in FINISH_REASONS:
        raise ValueError(f"{where}: finish_reason {_short(value)}; known are {', '.join(FINISH_REASONS)}")
    return value


def _count(value: object, where: str) -> int | None:
    return None if value is None else _whole(value, where)


def _whole(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{where}: expected a whole number, found {_short(value)}")
    return value


def _plain(text: str) -> str:
    return " ".join(text.split())


def _short(value: object) -> str:
    return f"{value!r:.80}"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
