"""Where an answer stands, case by case; the cases of shared/grading/CONVENTION.md."""

from __future__ import annotations

import pytest

from deepscaler.rewards.extract import extract_answer
from hang_guard import hang_guard


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"a</think>so \boxed{42}.", "42"),
        (r"\boxed{1}</think>\boxed{2}", "2"),  # boxes in the thoughts do not count
        (r"a</think>\boxed{1} no, \boxed{2}", "2"),  # the last one counts
        (r"a</think>b</think>\boxed{3}", "3"),
        (r"</think>\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"</think>\boxed {7}", "7"),
        (r"</think>so \boxed 7.", "7"),  # TeX needs no braces
        (r"</think>\boxed{1} \quad \text{and} \quad \boxed{2}", "1,2"),
        (r"</think>\(\boxed{1}\) and \(\boxed{2}\)", "1,2"),
        (r"</think>\boxed{1} for (a) and \boxed{2} for (b)", "2"),  # joined by more than "and"
        (r"</think>\boxed{\boxed{5}}", r"\boxed{5}"),  # outermost
        (r"</think>\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"</think>\boxed{1}, \boxed{2} and \boxed{3}", "1,2,3"),
        (r"</think>$\boxed{1}$ or $\boxed{2}$", "1,2"),
        (r"</think>$\boxed{1}$ $\boxed{2}$", "2"),  # nothing joins them
        (r"</think>\boxed{x \text{ and } y}", r"x \text{ and } y"),
    ],
)
def test_the_last_outermost_box_after_the_thoughts_is_the_answer(completion: str, answer: str) -> None:
    assert extract_answer(completion, thinking_prefilled=True).answer == answer


@pytest.mark.parametrize(
    ("completion", "why"),
    [
        (r"I think \boxed{42}", "never ends"),  # the template opened <think>
        (r"a</think>42", "no \\boxed"),
        (r"a</think>\boxed{}", "empty"),
        (r"a</think>\boxed{  }", "empty"),
        (r"a</think>\boxed{1} so \boxed{2", "never closed"),  # no falling back to an earlier box
        (r"a</think><think>\boxed{1}", "second thinking"),
        ("", "never ends"),
    ],
)
def test_without_an_answer_the_reason_is_said(completion: str, why: str) -> None:
    extraction = extract_answer(completion, thinking_prefilled=True)
    assert extraction.answer is None
    assert why in extraction.why


def test_without_a_prefilled_thought_the_whole_text_is_final() -> None:
    assert extract_answer(r"\boxed{42}", thinking_prefilled=False).answer == "42"
    assert extract_answer(r"<think>\boxed{42}", thinking_prefilled=False).answer is None


@pytest.mark.parametrize("piece", ["\\boxed{", "{", "}", "\\", "</think>", "\\boxed{1},", "\\boxed{1} and "])
def test_time_is_linear_in_hostile_text(piece: str) -> None:
    with hang_guard(piece):  # quadratic time would take minutes
        extract_answer("</think>" + piece * 100_000, thinking_prefilled=True)
