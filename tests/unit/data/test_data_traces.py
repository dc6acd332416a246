"""Traces from people's files: layouts, and errors that name file, row and field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config.sections.supervised import TracesSection
from deepscaler.data.sources.readers import DataError
from deepscaler.data.traces import load_traces
from deepscaler.types import Message

ASKED, ANSWERED = Message("user", "1+1?"), Message("assistant", "2")


def read(tmp_path: Path, *rows: Any, **settings: Any) -> list[tuple[Message, ...]]:
    path = tmp_path / "traces.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [trace.messages for trace in load_traces(str(path), TracesSection(source=str(path), **settings))]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]},
        {"messages": json.dumps([{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}])},
        {"conversations": [{"from": "human", "value": "1+1?"}, {"from": "gpt", "value": "2"}]},
        {"prompt": "1+1?", "completion": "2"},
        {"prompt": [{"role": "user", "content": "1+1?"}], "completion": [{"role": "assistant", "content": "2"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "1+1?"}]}, {
            "role": "assistant", "content": "2"}, {"role": "user", "content": "thanks"}]},
    ],
)  # fmt: skip
def test_every_layout_holds_the_same_conversation(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(tmp_path, row) == [(ASKED, ANSWERED)]


def test_reasoning_in_a_field_of_its_own_comes_before_the_answer(tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "1+1?"},
                        {"role": "assistant", "content": "2", "reasoning_content": "add"}]}  # fmt: skip
    assert read(tmp_path, row)[0][1].content == "<think>\nadd\n</think>\n\n2"


def test_prompts_are_made_as_in_training(tmp_path: Path) -> None:
    row = {"question": "1+1?", "answer": "2"}
    names = {"prompt_field": "question", "completion_field": "answer"}
    found = read(tmp_path, row, **names, system_prompt="Be brief.", instruction="Think.")
    assert found == [(Message("system", "Be brief."), Message("user", "1+1? Think."), ANSWERED)]
    asked = read(tmp_path, row, **names, prompt_template="Q: {problem}\nA:")
    assert asked[0][0] == Message("user", "Q: 1+1?\nA:")


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"messages": [{"role": "user", "content": "1+1?"}]}, "no turn of the assistant"),
        ({"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": " "}]}, "is empty"),
        ({"messages": [{"role": "boss", "content": "1+1?"}]}, "the role 'boss'"),
        ({"conversations": [{"from": "robot", "value": "1+1?"}]}, "the role 'robot'"),
        ({"messages": 5}, "expected a list of messages, found 5"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [1]}]},
         "calls a tool"),
        ({"prompt": "1+1?"}, "none called 'completion'"),
        ({"prompt": 5, "completion": "2"}, "expected text or a list of messages"),
        ([1], "expected an object"),
        ({"prompt": "1+1?", "completion": "\ud800"}, "field 'completion'"),
    ],
)  # fmt: skip
def test_a_row_without_anything_to_learn_is_named(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(DataError, match=says) as error:
        read(tmp_path, {"prompt": "1+1?", "completion": "2"}, row)
    assert "traces.jsonl, row 1" in str(error.value)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no rows"):
        read(tmp_path)
