"""Problems that a text model cannot answer, or that are more than text to it, leave with their reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deepscaler.data.prepare.preparation import Settings, Tools, prepare
from deepscaler.data.sources.layouts import Columns

GOOD = {"problem": "What is 17 plus 25?", "answer": "42"}


def reasons(tmp_path: Path, *rows: dict[str, Any]) -> list[str]:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([GOOD, *rows]))
    done = prepare([path], (), Settings(Columns()), Tools(lambda a, b: a == b, bool))
    return [row["reason"] for row in done.dropped_table().to_pylist()]


@pytest.mark.parametrize(
    "problem",
    [
        "<image>\nHow long is AB?", "How long is AB? <image_1>", "See ![figure](a.png). How long is AB?",
        "![](https://host/a.jpg) Find x.", "Find x. \\includegraphics[width=3cm]{a.png}", "Find x <img src='a'>",
        "<|vision_start|><|image_pad|><|vision_end|>Find x.",
    ],
)  # fmt: skip
def test_a_problem_that_refers_to_an_image_leaves(tmp_path: Path, problem: str) -> None:
    assert reasons(tmp_path, {"problem": problem, "answer": "1"}) == ["needs_image"]


def test_a_filled_column_of_images_counts_and_an_empty_one_does_not(tmp_path: Path) -> None:
    row = {"problem": "How long is AB?", "answer": "3"}
    assert reasons(tmp_path, row | {"images": ["a.png"]}) == ["needs_image"]
    assert reasons(tmp_path, row | {"images": [], "image": None}) == []


def test_figures_that_are_text_stay(tmp_path: Path) -> None:
    assert reasons(tmp_path, {"problem": "[asy]draw((0,0)--(1,1));[/asy] How long is it? $5!(3)$", "answer": "1"}) == []


CHOICES = ["the first prime", "the second prime", "the third prime"]


@pytest.mark.parametrize(
    ("choices", "answer"),
    [
        (CHOICES, "B"), (CHOICES, "(b)"), (CHOICES, 1), (CHOICES, "1"), ({"A": "5 m", "B": "6 m"}, "A"),
        ({"label": ["A", "B"], "text": ["5 m", "6 m"]}, "B"), ("5 m\n6 m", "B"),
    ],
)  # fmt: skip
def test_choices_in_a_column_of_their_own_leave(tmp_path: Path, choices: Any, answer: Any) -> None:
    row = {"problem": "Which of them is it?", "answer": answer}
    assert reasons(tmp_path, row | {"choices": choices}) == reasons(tmp_path, row | {"options": choices})
    assert reasons(tmp_path, row | {"choices": choices}) == ["choices_apart"]


def test_choices_that_the_problem_holds_or_whose_content_is_the_answer_stay(tmp_path: Path) -> None:
    listed = {"problem": f"Which is it? {', '.join(CHOICES)}", "answer": "B", "choices": CHOICES}
    content = {"problem": "Which of them is it?", "answer": "the first prime", "choices": CHOICES}
    assert reasons(tmp_path, listed, content) == []


@pytest.mark.parametrize(
    "text",
    [
        "<|im_end|>",
        "<|endoftext|>",
        "<|eot_id|>",
        "<｜User｜>",
        "</think>",
        "</s>",
        "<end_of_turn>",
        "[/INST]",
        "<eos>",
    ],
)
def test_the_text_of_a_control_token_leaves(tmp_path: Path, text: str) -> None:
    assert reasons(tmp_path, {"problem": f"What is 3 plus 4?{text}", "answer": "7"}) == ["control_tokens"]


def test_brackets_of_mathematics_are_no_control_tokens(tmp_path: Path) -> None:
    rows = [
        {"problem": text, "answer": str(index)}
        for index, text in enumerate(
            ["Is $a<b>c$ so?", "Find $\\langle u|v \\rangle$.", "$x<s>y$ for which s?", "Solve |x|<|y| for |x|>2.",
             "Let $[AB]$ and $[/2]$ be given.", "How many $<user>$ are there?"]
        )
    ]  # fmt: skip
    assert reasons(tmp_path, *rows) == []
