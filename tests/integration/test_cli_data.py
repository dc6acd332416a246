"""`deepscaler data prepare` as a user calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from deepscaler.cli import main as cli
from deepscaler.cli.prepare import readable
from deepscaler.config import load_recipe
from deepscaler.config.evaluation import COMPETITION
from deepscaler.data.sources.load import load_problems
from deepscaler.evaluation.breakdown import read_contamination
from deepscaler.evaluation.held_out import same_answer
from deepscaler.toy.tokenizer import build_tokenizer
from shared_data import shared

ROWS = [
    {"problem": "How many primes are there between 20 and 30?", "answer": "2"},
    {"problem": "A farmer has 17 sheep and all but 9 run away. How many sheep are left?", "answer": 9.0},
    {"problem": "A farmer has $17$ sheep, and all but $9$ run away. How many sheep are left?", "answer": "9"},
    {"problem": "What is it?", "answer": None},
]


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["deepscaler", "data", "prepare", *arguments])
    try:
        cli.main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    return path


def test_files_become_a_directory_and_a_table(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert call(monkeypatch, "--input", str(rows), "--without-benchmarks", "--out", str(out)) == 0
    printed = capsys.readouterr()
    assert "lint                    4        3  missing_answer 1" in printed.out
    assert "duplicates              3        2  duplicate_verbatim 1" in printed.out
    assert "rows to train on 2, to validate on 0" in printed.out
    assert all(len(line) <= 80 for line in printed.err.splitlines())
    assert pq.read_metadata(out / "train.parquet").num_rows == 2
    assert sorted(path.name for path in out.iterdir()) == [
        "contamination.html", "contamination.json", "dropped.parquet", "manifest.json", "train.parquet",
    ]  # fmt: skip


def test_an_output_is_replaced_only_when_asked_and_only_if_it_is_one(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--input", str(rows), "--without-benchmarks", "--out", str(tmp_path / "out"))
    assert call(monkeypatch, *arguments) == 0
    assert call(monkeypatch, *arguments) == 1
    assert "out exists; give another --out, or --overwrite" in capsys.readouterr().err
    assert call(monkeypatch, *arguments, "--overwrite") == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert call(monkeypatch, *arguments[:-1], str(tmp_path / "mine"), "--overwrite") == 1
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to prepare: name a RECIPE, or files with --input FILE"),
        (["--input", "ROWS"], "no benchmarks to keep out of training: name their directory with --benchmarks DIR"),
        (["--input", "ROWS", "--benchmarks", "nowhere"], "nowhere/aime24.json does not exist"),
        (["--input", "nowhere.json", "--without-benchmarks"], "nowhere.json does not exist"),
        (["--input", "ROWS", "--without-benchmarks", "--answer-column", "result"], "no row has a field 'result'"),
        (["--input", "ROWS", "--without-benchmarks", "--max-prompt-tokens", "9"], "needs a tokenizer to count with"),
        (["--input", "ROWS", "--set", "seed=2"], "no RECIPE was named"),
    ],
)
def test_mistakes_become_one_message_and_leave_nothing(
    arguments: list[str],
    message: str,
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [str(rows) if argument == "ROWS" else argument for argument in arguments]
    assert call(monkeypatch, *given, "--out", str(tmp_path / "out")) == 1
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]


def test_prompts_are_measured_in_the_chat_template(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build_tokenizer([]).save_pretrained(tmp_path / "tokenizer")  # one token per character, and three of the template
    limit = len(str(ROWS[0]["problem"])) + 3
    arguments = ("--input", str(rows), "--without-benchmarks", "--tokenizer", str(tmp_path / "tokenizer"))
    for tokens, kept in ((limit, 1), (limit - 1, 0)):
        out = ("--out", str(tmp_path / f"out{tokens}"), "--max-prompt-tokens", str(tokens))
        assert call(monkeypatch, *arguments, *out) == (0 if kept else 1)
    printed = capsys.readouterr()
    assert "prompt length           2        1  overlong_prompt 1" in printed.out
    assert "'overlong_prompt': 2" in printed.err


def test_a_missing_tokenizer_is_named(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ("--input", str(rows), "--without-benchmarks", "--tokenizer", str(tmp_path / "empty"))
    assert call(monkeypatch, *arguments, "--max-prompt-tokens", "9", "--out", str(tmp_path / "out")) == 1
    assert f"no tokenizer at {tmp_path / 'empty'} (" in capsys.readouterr().err


def test_an_unknown_layout_is_wrong_usage(rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(monkeypatch, "--input", str(rows), "--without-benchmarks", "--as", "alpaca") == 2


def test_a_recipe_names_sources_benchmarks_and_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmarks = shared("data", "benchmarks")
    (tmp_path / "raw.jsonl").write_text(
        json.dumps({"question": "How many letters does the word banana have?", "result": 6})
        + "\n"
        + json.dumps(
            {"question": "What is the root of 53 plus the root of 0 when written plainly?", "result": "\\sqrt{53}"}
        )
    )
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"""name = "t"
num_steps = 1
[sft]
[data]
source = "{tmp_path / "out" / "train.parquet"}"
raw_sources = ["{tmp_path / "raw.jsonl"}"]
benchmarks = "{benchmarks}"
prompt_field = "question"
answer_field = "result"
[rollout]
prompts_per_step = 2
group_size = 2
[[stages]]
name = "only"
max_completion_tokens = 8
"""
    )
    assert call(monkeypatch, str(recipe), "--out", str(tmp_path / "out")) == 0
    assert "rows to train on 2, to validate on 0" in capsys.readouterr().out
    data = load_recipe(recipe).data
    first, second = load_problems(data.source, prompt_field=data.prompt_field, answer_field=data.answer_field)
    assert (first.references, second.references) == (("6",), ("\\sqrt{53}",))
    assert read_contamination(tmp_path / "out" / "contamination.json") == dict.fromkeys(COMPETITION, frozenset())
    assert call(monkeypatch, str(recipe), "--out", str(tmp_path / "out"), "--as", "verl", "--overwrite") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [b["problems"] for b in manifest["benchmarks"]] == [30, 83, 500, 272, 675]
    assert manifest["settings"]["recipe"] == str(recipe)
    content = pq.read_table(tmp_path / "out" / "train.parquet")["prompt"].to_pylist()[0][0]["content"]
    assert content.startswith("How many letters") and content.endswith("\\boxed{}.")


def test_the_grader_decides_what_is_equal_and_readable() -> None:
    assert same_answer("025", "25")
    assert same_answer("\\frac{1}{2}", "0.5")
    assert not same_answer("25", "26")
    assert readable("\\frac{124}{13}")
    assert not readable("")
