"""Conversations as prompts: the last message is the problem, those before it are kept, and odd ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from deepscaler.data.benchmarks.load import row_hash
from deepscaler.data.prepare.files import write_preparation
from deepscaler.data.prepare.preparation import Preparation, Settings, Tools, prepare
from deepscaler.data.sources.layouts import Columns, Layout
from deepscaler.data.sources.load import load_problems
from deepscaler.data.sources.readers import DataError
from deepscaler.engines.openai.client import ChatRequest
from deepscaler.types import Message, Problem

SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [{"role": "user", "content": "Let $f(x)=x^2$."}, {"role": "assistant", "content": "All right."}]
PLAIN = {"prompt": [{"role": "user", "content": "What is 1+1?"}], "answer": "2"}


def question(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def write(tmp_path: Path, *rows: Any) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def prepared(path: Path) -> Preparation:
    return prepare([path], (), Settings(Columns()), Tools(lambda a, b: a == b, bool))


ROWS = [
    {"prompt": [SYSTEM, question("What is 2+3 here?")], "answer": "5"},
    {"prompt": [SYSTEM, *TURNS, question("What is $f(4)$ now?")], "solution": "\\boxed{16}"},
    {"prompt": [question("How large is 7 times 8?")], "reward_model": {"ground_truth": "56"}},
]


@pytest.mark.parametrize("layout", ["plain", "verl", "trl"])
def test_the_messages_before_a_problem_are_kept_from_file_to_training(tmp_path: Path, layout: Layout) -> None:
    path = write(tmp_path, *ROWS)
    done = prepared(path)
    assert not done.dropped_table().num_rows
    write_preparation(done, (), Settings(Columns()), tmp_path / "out", layout=layout)
    for source in (path, tmp_path / "out" / "train.parquet"):
        first, second, third = load_problems(source)
        assert (first.prompt, first.earlier) == ("What is 2+3 here?", (Message("system", "Be brief."),))
        assert [message.role for message in second.earlier] == ["system", "user", "assistant"]
        assert (second.prompt, second.references) == ("What is $f(4)$ now?", ("16",))
        assert third.earlier == ()


def test_a_conversation_as_json_text_is_a_conversation(tmp_path: Path) -> None:
    rows = [row | {"prompt": json.dumps(row["prompt"])} for row in ROWS[:2]]
    rows.append({"prompt": json.dumps(ROWS[2]["prompt"]), "reward_model": json.dumps(ROWS[2]["reward_model"])})
    assert load_problems(write(tmp_path, *rows)) == load_problems(write(tmp_path, *ROWS))


def test_text_parts_are_joined(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": " 1+1?"}]
    (problem,) = load_problems(write(tmp_path, PLAIN | {"prompt": [{"role": "user", "content": parts}]}))
    assert problem.prompt == "What is 1+1?"


@pytest.mark.parametrize(
    ("prompt", "reason", "message"),
    [
        ([question("1+1?"), TURNS[1]], "conversation", "ends with a message of 'assistant'"),
        ([], "conversation", "holds no message"),
        ([{"role": "gpt", "content": "1"}, question("1+1?")], "conversation", "message 0 has the role 'gpt'"),
        ([{"role": "user", "content": None}], "conversation", "no text as its content"),
        (str([SYSTEM, question("1+1?")]), "conversation", "Python's text"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "needs_image", "'image_url'"),
    ],
)
def test_what_cannot_be_asked_is_refused_and_counted(tmp_path: Path, prompt: Any, reason: str, message: str) -> None:
    path = write(tmp_path, PLAIN, PLAIN | {"prompt": prompt})
    with pytest.raises(DataError, match=rf"rows\.jsonl, row 1, field 'prompt': .*{message}"):
        load_problems(path)
    (gone,) = prepared(path).dropped_table().to_pylist()
    assert (gone["row"], gone["reason"]) == (1, reason) and message in gone["detail"]


def test_the_same_last_question_after_other_turns_is_another_problem(tmp_path: Path) -> None:
    other = [question("Let $f(x)=3x+1$ for all real numbers."), TURNS[1]]
    ask = question("What is $f(4)$ now?")
    rows = [{"prompt": [*turns, ask], "answer": answer} for turns, answer in ((TURNS, "16"), (other, "13"))]
    path = write(tmp_path, *rows)
    assert len({problem.id for problem in load_problems(path)}) == 2
    assert len(prepared(path).train) == 2


def test_a_result_tells_what_was_shown_before_apart() -> None:
    plain = Problem("a", "1+1?", ("2",))
    told = Problem("a", "1+1?", ("2",), earlier=(Message("system", "Be brief."),))
    assert row_hash(plain) != row_hash(told)


def test_a_server_is_sent_the_whole_conversation() -> None:
    assert ChatRequest("k", "1+1?", 1).messages == [question("1+1?")]
    assert ChatRequest("k", "1+1?", 1, (Message("system", "Be brief."),)).messages == [SYSTEM, question("1+1?")]


def test_prepared_rows_say_what_comes_before(tmp_path: Path) -> None:
    write_preparation(prepared(write(tmp_path, *ROWS)), (), Settings(Columns()), tmp_path / "out")
    table = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()
    assert [len(row["earlier"]) for row in table] == [1, 3, 0]
