"""Exports hold the figures of results.json in the shape that the other tools read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from deepscaler.evaluation.exports import export
from deepscaler.evaluation.samples import read_results
from deepscaler.observability.problem_texts import write_problem_texts
from deepscaler.types import Problem
from made_comparison import write_evaluation_of
from made_samples import made_rows, row

DATE = "2026-01-02T03:04:05"
SAMPLING = {"temperature": 0.6, "top_p": 0.95, "max_completion_tokens": 100}


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    rows = made_rows(5, 4, rate=0.4, seed=1, benchmark="aime24") + made_rows(
        3, 4, rate=0.6, seed=2, benchmark="math500"
    )
    return write_evaluation_of(tmp_path / "eval", rows, model={"name": "org/model"}, sampling=SAMPLING)


def test_lm_evaluation_harness(evaluation: Path, tmp_path: Path) -> None:
    files = export("lm-eval", evaluation, tmp_path / "out", prompts={"p0": "What?"}, date=DATE)
    names = [str(f.relative_to(tmp_path / "out")) for f in files]
    stamp = "2026-01-02T03-04-05"
    assert names[0] == f"org__model/results_{stamp}.json"
    assert names[1:] == [f"org__model/samples_{name}_{stamp}.jsonl" for name in ("aime24", "math500")]
    ours, theirs = read_results(evaluation), json.loads(files[0].read_text())
    for name, record in ours["benchmarks"].items():
        assert theirs["results"][name]["exact_match,none"] == record["pass@1"]
        assert theirs["results"][name]["exact_match_stderr,none"] == record["se_problems"]
        assert theirs["configs"][name]["generation_kwargs"]["temperature"] == 0.6
    lines = [json.loads(line) for line in files[1].read_text().splitlines()]
    assert [line["doc_id"] for line in lines] == [0, 1, 2, 3, 4]
    expected = {"doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics"}
    assert expected | {"doc_hash", "prompt_hash", "target_hash"} <= lines[0].keys()
    assert len(lines[0]["resps"][0]) == 4
    assert lines[0]["arguments"]["gen_args_0"]["arg_0"] == "What?"
    mean = sum(line["exact_match"] for line in lines) / 5
    assert mean == pytest.approx(theirs["results"]["aime24"]["exact_match,none"])


def test_lighteval_details(evaluation: Path, tmp_path: Path) -> None:
    files = export("lighteval", evaluation, tmp_path / "out", prompts={}, date=DATE)
    assert [f.name.partition("_2026")[0] for f in files] == ["details_aime24", "details_math500"]
    rows = pq.read_table(files[0]).to_pylist()
    assert list(rows[0]) == ["doc", "metric", "model_response"]
    assert len(rows) == 5
    assert len(rows[0]["model_response"]["text"]) == 4
    assert rows[0]["model_response"]["output_tokens"] is None  # not recorded, so not made up
    mean = sum(r["metric"]["pass@1"] for r in rows) / 5
    assert mean == pytest.approx(read_results(evaluation)["benchmarks"]["aime24"]["pass@1"])


def test_token_ids_are_exported_where_they_are_known(tmp_path: Path) -> None:
    rows = [row(0, s, token_ids=[1, 2], num_tokens=2) for s in range(2)]
    directory = write_evaluation_of(tmp_path / "eval", rows)
    (file,) = export("lighteval", directory, tmp_path / "out", prompts={}, date=DATE)
    assert pq.read_table(file).to_pylist()[0]["model_response"]["output_tokens"] == [[1, 2], [1, 2]]


def test_hub_results_are_what_the_hubs_own_library_reads(evaluation: Path, tmp_path: Path) -> None:
    parse = pytest.importorskip("huggingface_hub").parse_eval_result_entries
    files = export("hf", evaluation, tmp_path / "out", prompts={}, date=DATE)
    assert [f.relative_to(tmp_path / "out").as_posix() for f in files] == [
        ".eval_results/aime24.yaml",
        ".eval_results/math500.yaml",
    ]
    (entry,) = parse(yaml.safe_load(files[0].read_text()))
    record = read_results(evaluation)["benchmarks"]["aime24"]
    assert (entry.dataset_id, entry.task_id, entry.date) == ("HuggingFaceH4/aime_2024", "default", f"{DATE}Z")
    assert entry.value == pytest.approx(100 * record["pass@1"], abs=0.005)
    assert "mean of 4 samples on 5 problems" in entry.notes
    assert "T=0.6" in entry.notes
    assert entry.dataset_revision is None  # nothing says that these were the hub's problems
    write = pytest.importorskip("huggingface_hub").eval_result_entries_to_yaml
    assert write([entry]) == yaml.safe_load(files[0].read_text())  # no field that the hub's format does not have


def test_the_commit_is_named_where_the_problems_came_from_the_hub(tmp_path: Path) -> None:
    rows = made_rows(3, 2, rate=0.5, seed=1, benchmark="aime24") + made_rows(3, 2, rate=0.5, seed=1, benchmark="amc23")
    datasets = {"aime24": {"revision": "0" * 40, "file_sha256": "1" * 64}, "amc23": {"file_sha256": "2" * 64}}
    directory = write_evaluation_of(tmp_path / "eval", rows, datasets=datasets)
    files = export("hf", directory, tmp_path / "out", date=DATE)
    hub, file = (yaml.safe_load(f.read_text())[0] for f in files)
    assert hub["dataset"]["revision"] == "0" * 40 and "revision" not in file["dataset"]
    assert "file with SHA-256 2222" in file["notes"] and "SHA-256" not in hub["notes"]


def test_lighteval_details_are_read_as_its_documentation_says(evaluation: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    export("lighteval", evaluation, tmp_path / "out", prompts={"p0": "What?"}, date=DATE)
    folders = sorted((tmp_path / "out" / "details" / "org" / "model").glob("*/"))
    stamp, task = folders[-1].name, "aime24"
    path = f"{tmp_path}/out/details/org/model/{stamp}/details_{task}_{stamp}.parquet"
    details = datasets.load_dataset("parquet", data_files=path, split="train", cache_dir=str(tmp_path / "cache"))
    assert details.column_names == ["doc", "metric", "model_response"] and len(details) == 5
    first = details[0]
    assert first["doc"]["query"] == "What?" and first["doc"]["choices"] == ["1"]
    assert len(first["model_response"]["text"]) == first["metric"]["n"] == 4


def test_texts_come_from_the_evaluation_itself(evaluation: Path, tmp_path: Path) -> None:
    write_problem_texts(evaluation, {"aime24": [Problem("p0", "What is it?", ("1",))]})
    files = export("lm-eval", evaluation, tmp_path / "out", date=DATE)
    first = json.loads(files[1].read_text().splitlines()[0])
    assert first["doc"]["problem"] == "What is it?"


@pytest.mark.parametrize("kind", ["lm-eval", "lighteval"])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, kind: str) -> None:
    rows = [row(0, 0, benchmark="../../up"), row(1, 0, benchmark="../../up")]
    directory = write_evaluation_of(tmp_path / "eval", rows, model={"name": "../../../elsewhere"})
    for file in export(kind, directory, tmp_path / "out", prompts={}, date=DATE):
        assert file.resolve().is_relative_to(tmp_path / "out")
        assert file.is_file()


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    directory = write_evaluation_of(tmp_path / "eval", [row(0, 0), row(1, 0)])
    with pytest.raises(ValueError, match="made is no registered benchmark"):
        export("hf", directory, tmp_path / "out", prompts={}, date=DATE)
    with pytest.raises(ValueError, match="unknown export 'csv'; known are lm-eval, lighteval, hf"):
        export("csv", directory, tmp_path / "out", prompts={}, date=DATE)
    assert not (tmp_path / "out").exists()
