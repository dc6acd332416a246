"""The benchmarks in the layouts in which the hub publishes them, and the hub without a network."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.config.evaluation import SuiteSection
from deepscaler.data.benchmarks import hub as benchmark_hub
from deepscaler.data.benchmarks.load import BENCHMARKS, load_benchmark
from deepscaler.data.sources.readers import DataError
from deepscaler.evaluation.datasets import load_suite
from shared_data import shared

FILES = {
    "aime24": "data/train-00000-of-00001.parquet",
    "amc23": "data/train-00000-of-00001.parquet",
    "math500": "test.jsonl",
    "minerva": "test.jsonl",
    "olympiadbench": "OlympiadBench/OE_TO_maths_en_COMP/OE_TO_maths_en_COMP.parquet",
}


def as_published(name: str, row: dict[str, Any], number: int) -> dict[str, Any]:
    """A row of the registered file with the hub's columns."""
    if name == "aime24":
        paper = "I" * int(row["aime_number"])
        url = f"https://artofproblemsolving.com/wiki/index.php/2024_AIME_{paper}_Problems/Problem_{number}"
        return {"id": number, **{k: row[k] for k in ("problem", "solution", "answer")}, "url": url, "year": "2024"}
    if name == "amc23":
        return {"id": number, "problem": row["problem"], "answer": float(row["answer"]), "url": row["url"]}
    if name == "math500":
        kept = {k: row[k] for k in ("problem", "answer", "unique_id")}
        return {**kept, "solution": "", "subject": "Algebra", "level": int(row["difficulty"])}
    if name == "minerva":
        return {"question": row["problem"], "answer": row["answer"][0]}
    kept = {k: row[k] for k in ("solution", "subfield", "error", "is_multiple_answer")}
    return {**kept, "id": number, "question": row["problem"], "final_answer": row["answer"]}


def publish(name: str, directory: Path) -> Path:
    """The dataset's directory as `hf download` leaves it, other splits and files among them."""
    rows = json.loads((shared("data", "benchmarks") / f"{name}.json").read_text())
    write(directory / FILES[name], [as_published(name, row, number) for number, row in enumerate(rows)])
    (directory / ".cache" / "huggingface").mkdir(parents=True)
    (directory / ".cache" / "huggingface" / "test.json").write_text("[]")
    (directory / "README.md").write_text("---\nlicense: mit\n---")
    return directory


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


@pytest.mark.parametrize("name", [name for name in FILES if name != "minerva"])
def test_the_hubs_layout_holds_the_same_problems_as_the_registered_file(name: str, tmp_path: Path) -> None:
    publish(name, tmp_path / name)
    ours, theirs = (load_benchmark(name, d) for d in (shared("data", "benchmarks"), tmp_path))
    assert theirs.row_hashes == ours.row_hashes and theirs.registered and theirs.warnings == ()
    assert [(p.id, p.source, p.tolerance) for p in theirs.problems] == [
        (p.id, p.source, p.tolerance) for p in ours.problems
    ]
    assert theirs.origin["dataset"] == BENCHMARKS[name].hub.dataset and theirs.sha256 != ours.sha256


def test_other_references_are_said_and_not_corrected(tmp_path: Path) -> None:
    publish("minerva", tmp_path / "minerva")
    loaded = load_benchmark("minerva", tmp_path)
    assert not loaded.registered and len(loaded.problems) == 272
    assert "not row by row those of the registered minerva.json" in loaded.warnings[0]
    with pytest.raises(DataError, match="the corrections were made for"):
        load_benchmark("minerva", tmp_path, corrected=True)


def test_the_registered_file_comes_before_the_hubs_directory(tmp_path: Path) -> None:
    publish("aime24", tmp_path / "aime24")
    (tmp_path / "aime24.json").write_bytes((shared("data", "benchmarks") / "aime24.json").read_bytes())
    assert load_benchmark("aime24", tmp_path).sha256 in BENCHMARKS["aime24"].sha256


def test_without_a_directory_the_pinned_commit_of_the_hub_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def snapshot(name: str, revision: str, *, instead: str) -> Path:
        asked.append((name, revision))
        return directory

    directory = publish("math500", tmp_path / "0123abcd")  # the hub's cache names directories after commits
    monkeypatch.setattr(benchmark_hub, "snapshot", snapshot)
    datasets = load_suite(SuiteSection(benchmarks=("math500",), limit=5), None)
    assert asked == [(BENCHMARKS["math500"].hub.dataset, BENCHMARKS["math500"].hub.revision)]
    identity = datasets.identity["math500"]
    assert identity["revision"] == "0123abcd" and identity["dataset"] == "HuggingFaceH4/MATH-500"
    assert identity["num_problems"] == 5 and len(datasets.row_hashes["math500"]) == 5


def test_the_split_and_the_configuration_are_found(tmp_path: Path) -> None:
    source = BENCHMARKS["olympiadbench"].hub
    wanted = ["OE_TO_maths_en_COMP/train/0000.parquet", "OE_TO_maths_en_COMP/train/0001.parquet"]
    for file in (*wanted, "OE_TO_maths_en_COMP/test/0000.parquet", "OE_MM_maths_en_COMP/train/0000.parquet"):
        write(tmp_path / file, [{"a": 1}])
    found = [p.relative_to(tmp_path).as_posix() for p in benchmark_hub.split_files(tmp_path, source)]
    assert found == wanted
    with pytest.raises(DataError, match=r"no file of .*configuration OE_TO_maths_en_COMP, split train"):
        benchmark_hub.split_files(tmp_path / "OE_MM_maths_en_COMP", source)


def test_without_a_network_one_message_names_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("deepscaler.data.sources.hub.reachable", lambda endpoint: False)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        load_suite(SuiteSection(), None)
    message = str(caught.value)
    assert "dataset HuggingFaceH4/aime_2024 could not be downloaded from the hub (no connection to" in message
    assert "--benchmarks DIR" in message and "aime24.json" in message and "hf download" in message
    assert "\n" not in message and time.monotonic() - start < 60
