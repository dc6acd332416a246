"""Commands on stored completions, from a file of others to comparison, clean score and exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deepscaler.cli.main import app
from deepscaler.data.benchmarks.load import load_benchmark
from made_comparison import write_evaluation_of
from made_samples import made_rows, row
from shared_data import shared


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)


def test_compare_prints_and_writes_every_file(tmp_path: Path) -> None:
    a = write_evaluation_of(tmp_path / "a", made_rows(8, 4, rate=0.3, seed=1))
    b = write_evaluation_of(tmp_path / "b", made_rows(8, 4, rate=0.6, seed=2))
    done = run("compare", a, b, "--published", "--out", tmp_path / "out")
    assert done.exit_code == 0
    assert "PUBLISHED, not measured here" in done.stdout
    names = {"comparison.json", "comparison.md", "comparison.csv", "problems.csv", "comparison.html"}
    assert {p.name for p in (tmp_path / "out").iterdir()} == names
    assert all(str(tmp_path / "out" / name) in done.stdout for name in names)


def test_compare_refuses_other_problems_unless_told(tmp_path: Path) -> None:
    a = write_evaluation_of(tmp_path / "a", [row(p, 0) for p in range(4)])
    b = write_evaluation_of(tmp_path / "b", [row(p, 0) for p in range(1, 5)])
    with pytest.raises(ValueError, match="--common"):
        run("compare", a, b)
    done = run("compare", a, b, "--common")
    assert "NOT PAIRED, left out: 2 problems of made" in done.stdout


def test_completions_of_others_are_graded_cleaned_and_exported(tmp_path: Path) -> None:
    benchmarks = shared("data", "benchmarks")
    problems = load_benchmark("aime24", benchmarks).problems
    lines = [
        json.dumps({"question": p.prompt, "out": [f"\\boxed{{{p.references[0]}}}", "\\boxed{-1}"]}) for p in problems
    ]
    (tmp_path / "saved.jsonl").write_text("\n".join(lines))
    out = tmp_path / "eval"
    mapping = ("--map", "completion=out", "--map", "problem=question")
    common = ("--benchmarks", benchmarks, "--benchmark", "aime24", "--out", out)
    assert run("eval-import", tmp_path / "saved.jsonl", *mapping, *common).exit_code == 0
    record = json.loads((out / "results.json").read_text())["benchmarks"]["aime24"]
    assert (record["pass@1"], record["pass@k"]["2"], record["num_problems"]) == (0.5, 1.0, 30)
    (tmp_path / "contamination.json").write_text(json.dumps({"benchmarks": {"aime24": {"problems": ["aime24/3"]}}}))
    assert "on the 29 problems" in run("eval-clean", out, tmp_path / "contamination.json").stdout
    exported = run("eval-export", out, "--as", "lm-eval", "--out", tmp_path / "x", "--benchmarks", benchmarks)
    files = [Path(line) for line in exported.stdout.split()]
    assert [f.is_file() for f in files] == [True, True]
    first = json.loads(files[1].read_text().splitlines()[0])
    assert first["doc"]["problem"] == problems[0].prompt


def test_a_mapping_that_is_none_is_refused(tmp_path: Path) -> None:
    arguments = ("--map", "completion", "--out", tmp_path / "o", "--benchmarks", shared("data", "benchmarks"))
    with pytest.raises(ValueError, match="--map completion: expected FIELD=COLUMN"):
        run("eval-import", tmp_path / "saved.jsonl", *arguments)


@pytest.mark.parametrize("command", [["compare"], ["eval-import"], ["data", "prepare"], ["explain"]])
def test_flags_take_no_value_in_the_help(command: list[str]) -> None:
    done = run(*command, "--help")
    assert done.exit_code == 0 and "--help" in done.stdout
    assert "bool" not in done.stdout.lower()
