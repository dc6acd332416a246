"""`deepscaler grade`: saved completions in, one verdict per row out, whole or not at all; and a verdict explained."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deepscaler.cli.main import main
from deepscaler.types import Outcome

Grade = Callable[..., int]
ROWS: list[dict[str, Any]] = [
    {"id": "a", "response": r"so</think>\boxed{0.5}", "gold": r"\frac{1}{2}"},
    {"id": 7, "response": r"\boxed{8}", "gold": [7, "8"]},
    {"id": "b", "response": r"\boxed{143}", "gold": 142.0},
    {"id": "a", "response": "nothing", "gold": "1"},
    {"id": "c", "response": r"\boxed{1}", "gold": None},
    {"id": "d", "response": "\\boxed{\ud800\0}", "gold": "1"},
]
VERDICTS = ["correct", "correct", "wrong", "no_answer", "bad_reference", "wrong"]


@pytest.fixture
def grade(monkeypatch: pytest.MonkeyPatch) -> Iterator[Grade]:
    """`deepscaler grade` in this process with one worker; returns the exit code."""
    before = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["deepscaler", "grade", *map(str, arguments), "--workers", "1"])
        try:
            main()
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else 0
        return 0

    yield call
    signal.signal(signal.SIGTERM, before)


def write_jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_are_read_where_answer_says(grade: Grade, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"response": text, "gold": "12"} for text in ("#### 12.\nbye 3", "so 12 apples", "\\boxed{12}", "none")]
    path, out = write_jsonl(tmp_path / "rows.jsonl", rows), tmp_path / "out.jsonl"
    assert grade(path, "--out", out, "--answer", "after_####", "--answer", "last_number") == 0
    assert [row["verdict"] for row in read_jsonl(out)] == ["correct", "correct", "correct", "no_answer"]
    assert grade(path, "--out", out) == 0
    assert [row["verdict"] for row in read_jsonl(out)] == ["no_answer", "no_answer", "correct", "no_answer"]
    assert grade("--explain", "so 12 apples", "--reference", "12", "--answer", "last_number") == 0
    assert "3 answer       12" in capsys.readouterr().out
    assert grade(path, "--answer", "somewhere") == 2


def test_one_line_per_row_in_order_and_a_summary_by_outcome(
    grade: Grade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = write_jsonl(tmp_path / "in.jsonl", ROWS), tmp_path / "out.jsonl"
    assert grade(file, "--response-column", "response", "--reference-column", "gold", "--out", out) == 0
    lines = read_jsonl(out)
    assert [line["verdict"] for line in lines] == VERDICTS
    assert [line["id"] for line in lines] == ["a", 7, "b", "a", "c", "d"]
    assert all(0 <= line["seconds"] < 10 for line in lines)
    assert lines[0]["answer"] == "0.5" and lines[3]["answer"] is None and "boxed" in lines[3]["detail"]
    said = capsys.readouterr()
    summary = {words[0]: words[1] for words in map(str.split, said.out.splitlines()) if len(words) > 2}
    assert summary | {"rows": "6"} == summary
    assert {o.value: summary[o.value] for o in Outcome} == {o.value: str(VERDICTS.count(o.value)) for o in Outcome}
    assert max(map(len, (said.out + said.err).splitlines())) <= 80 + len(str(out))
    assert "graded 6 of 6" in said.err and "\r" not in said.err
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_every_format_gives_the_same_verdicts(grade: Grade, tmp_path: Path) -> None:
    rows = [{"id": str(i), "response": f"\\boxed{{{i}}}", "gold": "1"} for i in range(3)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    (tmp_path / "b.json").write_text(json.dumps(rows))
    (tmp_path / "c.csv").write_bytes(
        b'\xef\xbb\xbfgold,id,response\r\n1,0,"\\boxed{0}"\r\n1,1,\\boxed{1}\r\n1,2,"x\n\\boxed{2}"\r\n'
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    (tmp_path / "e.jsonl").write_text("\r\n".join(json.dumps(row) for row in rows) + "\r\n\r\n")
    for name in ("a.jsonl", "b.json", "c.csv", "d.parquet", "e.jsonl"):
        assert grade(tmp_path / name, "--out", tmp_path / "out.jsonl") == 0, name
        lines = read_jsonl(tmp_path / "out.jsonl")
        assert [(line["id"], line["verdict"]) for line in lines] == [("0", "wrong"), ("1", "correct"), ("2", "wrong")]


def test_columns_profile_and_tolerance_come_from_flags(grade: Grade, tmp_path: Path) -> None:
    rows = [{"q": i, "text": "\\boxed{0.51}", "want": 0.5, "off": off} for i, off in enumerate([None, 0.1, 0.001])]
    file, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    named = ("--response-column", "text", "--reference-column", "want", "--id-column", "q")
    assert grade(file, *named, "--tolerance-column", "off", "--out", out) == 0
    assert [(line["id"], line["verdict"]) for line in read_jsonl(out)] == [(0, "wrong"), (1, "correct"), (2, "wrong")]
    write_jsonl(file, [{"response": "\\boxed{\\frac12}", "gold": g} for g in ("0.5", "\\dfrac{1}{2}")])
    assert grade(file, "--profile", "string", "--out", out) == 0
    assert [(line["id"], line["verdict"]) for line in read_jsonl(out)] == [(0, "wrong"), (1, "correct")]
    write_jsonl(file, [{"response": "\\boxed{1}", "gold": "1"}])
    assert grade(file, "--thinking-prefilled", "--out", out) == 0
    assert read_jsonl(out)[0]["verdict"] == "no_answer"


GOOD = b'{"response": "\\\\boxed{1}", "gold": "1"}\n'


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", ["a.jsonl: no rows"]),
        ("a.jsonl", b"\n\n", ["a.jsonl: no rows"]),
        ("a.jsonl", GOOD + b'{"gold": "1"}\n', ["a.jsonl: line 2: field 'response' is missing", "--response-column"]),
        ("a.jsonl", GOOD + b'{"response": "x"}\n', ["line 2: field 'gold' is missing; there is response"]),
        ("a.jsonl", GOOD + b'{"response": null, "gold": 1}\n', ["line 2: field 'response' is null"]),
        ("a.jsonl", GOOD + b'{"response": 5, "gold": 1}\n', ["line 2: field 'response' is a number"]),
        ("a.jsonl", GOOD + b'{"response": ["x"], "gold": 1}\n', ["line 2: field 'response' is a list"]),
        ("a.jsonl", GOOD + b'{"response": "x", "gold": {"a": 1}}\n', ["line 2: field 'gold' holds an object"]),
        ("a.jsonl", GOOD + b'{"response": "x", "gold": true}\n', ["line 2: field 'gold' holds a boolean"]),
        ("a.jsonl", GOOD + b'{"response": "x", "gold": [["1"]]}\n', ["line 2: field 'gold' holds a list inside"]),
        ("a.jsonl", GOOD + b'{"response": "x", "gold": NaN}\n', ["line 2: no JSON: NaN"]),
        ("a.jsonl", GOOD + b'{"response": "x", "gold": 1, "id": [1]}\n', ["line 2: the id is a list"]),
        ("a.jsonl", GOOD + b'"text"\n', ["line 2: a string instead of an object"]),
        ("a.jsonl", GOOD + b"[" * 100_000 + b"\n", ["line 2: no JSON"]),
        ("a.jsonl", GOOD + b'{"response": "\xff\n', ["line 2: no UTF-8: byte 0xff at position 14"]),
        ("a.jsonl", GOOD + GOOD[:-3] + b"\n", ["line 2: no JSON"]),
        ("a.json", b"{}", ["a.json: an object instead of a list of rows"]),
        ("a.csv", b"response,gold\nx\n", ["a.csv: line 2: not as many fields"]),
        ("a.csv", b"response,gold\nx,1,2\n", ["a.csv: line 2: not as many fields"]),
        ("a.csv", b'response,gold\n"x,1\n', ["a.csv: line 1: no CSV: unexpected end"]),
        ("a.csv", b"response,gold\n\xfe,1\n", ["a.csv: line 2: no UTF-8"]),
        ("a.parquet", b"PAR1 no", ["a.parquet: no readable Parquet"]),
        ("a.txt", GOOD, ["a.txt: format not known"]),
    ],
)
def test_a_bad_row_is_one_error_before_anything_is_written(
    grade: Grade, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    out = tmp_path / "out.jsonl"
    out.write_text("from before\n")
    assert grade(tmp_path / name, "--out", out) == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    for word in words:
        assert word in error
    assert out.read_text() == "from before\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "out.jsonl"])


def test_what_cannot_be_written_is_found_first(
    grade: Grade, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_jsonl(tmp_path / "in.jsonl", ROWS)
    for out, words in [(tmp_path / "no" / "o.jsonl", "no directory"), (tmp_path, "is a directory"), (file, "to grade")]:
        assert grade(file, "--out", out) == 1
        assert words in capsys.readouterr().err
    assert grade(tmp_path / "none.jsonl") == 1
    assert "none.jsonl: no such file" in capsys.readouterr().err
    assert read_jsonl(file)[0]["id"] == "a"


@pytest.mark.parametrize("arguments", [[], ["f", "--explain", "x"], ["--explain", "x"], ["f", "--reference", "1"]])
def test_a_file_or_one_text_not_both_and_not_neither(grade: Grade, arguments: list[str]) -> None:
    assert grade(*arguments) == 2


def test_a_million_digits_in_a_row_are_no_trouble(grade: Grade, tmp_path: Path) -> None:
    digits = "7" * 1_000_000
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text(f'{{"response": "\\\\boxed{{{digits}}}", "gold": {digits}}}\n{{"response": "7", "gold": 1e999}}\n')
    assert grade(file, "--out", out) == 0
    assert [line["verdict"] for line in read_jsonl(out)] == ["correct", "no_answer"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_half_file(tmp_path: Path, number: signal.Signals) -> None:
    rows = [{"response": f"\\boxed{{\\sqrt{{{n}}}+\\pi}}", "gold": f"{n}+\\pi"} for n in range(200_000)]
    file, out = write_jsonl(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    command = [sys.executable, "-m", "deepscaler.cli.main", "grade", str(file), "--out", str(out), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=os.environ)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.jsonl*")):
        assert process.poll() is None and time.monotonic() < deadline, "it never began to write"
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert [p.name for p in tmp_path.iterdir()] == ["in.jsonl"]


def test_explain_shows_every_step(grade: Grade, capsys: pytest.CaptureFixture[str]) -> None:
    text = r"thoughts \boxed{1}</think>So \boxed{\frac{2}{4}}."
    assert grade("--explain", text, "--reference", "7", "--reference", "0.5", "--thinking-prefilled") == 0
    said = capsys.readouterr().out
    for words in (
        "after the last </think>",
        r"answer       \frac{2}{4}",
        "reference 1",
        "reference 2",
        "verdict        correct",
    ):
        assert words in said
    assert said.index("not equal") < said.index("verdict")


def test_explain_reads_files_and_standard_input_and_shows_no_control_characters(
    grade: Grade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "completion.txt").write_text("\\boxed{\x1b[2J7}")
    assert grade("--explain", tmp_path / "completion.txt", "--reference", "8") == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "verdict        wrong" in said


def test_explain_of_a_bare_answer_says_what_it_would_be_inside_a_box(
    grade: Grade, capsys: pytest.CaptureFixture[str]
) -> None:
    assert grade("--explain", "1/2", "--reference", "0.5") == 0
    said = capsys.readouterr().out
    assert "verdict        no_answer" in said and "would be correct" in said


def test_explain_with_the_string_profile_and_a_tolerance(grade: Grade, capsys: pytest.CaptureFixture[str]) -> None:
    assert grade("--explain", r"\boxed{\dfrac 1 2}", "--reference", r"\frac{1}{2}", "--profile", "string") == 0
    said = capsys.readouterr().out
    assert said.count(r"\frac{1}{2}") >= 2 and "verdict        correct" in said
    assert grade("--explain", r"\boxed{0.51}", "--reference", "0.5", "--tolerance", "0.1") == 0
    assert "verdict        correct" in capsys.readouterr().out
