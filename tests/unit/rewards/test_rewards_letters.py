"""Multiple choice: the letter that a box names, in every way of writing it, and no other."""

from __future__ import annotations

import pytest

from deepscaler.rewards.isolation.cache import VerdictCache, verdict_key
from deepscaler.rewards.letters import by_answer_kind, grade_letter, letter_of
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome

NAMES_IT = (
    "{L}", "({L})", "[{L}]", "{L}.", "{L})", r"\text{{{L}}}", r"\textbf{{({L})}}", r"\mathrm{{{L}}}", "{L}: 42",
    "{L}) 42", "({L}) 42", "Option {L}", "choice {L}", r"{L} \text{{ (42)}}", r"\textbf{{{L}) }}42", "answer: {L}",
    "{L}. 42",
    r"\text{{{L}. The charge is zero}}", "{L}) 10 m/s", "The correct answer is {L}.", "**{L}**", "{L}) E",
)  # fmt: skip
NAMES_NONE = (
    "42", "AB", "A,B", "A or B", "(A) and (C)", "A/B", "a body at rest", "2A", "A+1", "A^2", "A_1", "not A", r"\pi", "",
)  # fmt: skip


@pytest.mark.parametrize("letter", "ABDEIJ")
def test_every_way_of_writing_a_letter_names_it(letter: str) -> None:
    assert {form: letter_of(form.format(L=letter)) for form in NAMES_IT} == dict.fromkeys(NAMES_IT, letter)
    assert letter_of(letter.lower()) == letter_of(f"{letter.lower()})") == letter


def test_texts_and_several_letters_name_none() -> None:
    assert {text: letter_of(text) for text in NAMES_NONE} == dict.fromkeys(NAMES_NONE)


def item(answer: str, reference: str = "B") -> GradeItem:
    return GradeItem(f"so \\boxed{{{answer}}}", (reference,), thinking_prefilled=False, answer_kind="letter")


def test_only_the_letter_of_the_reference_is_right() -> None:
    judge = by_answer_kind(grade)
    outcomes = [judge(item(answer)).outcome for answer in ("(b)", "C) B", "42")]
    assert outcomes == [Outcome.CORRECT, Outcome.WRONG, Outcome.WRONG]
    assert grade_letter(GradeItem("B", ("B",), False, answer_kind="letter")).outcome is Outcome.NO_ANSWER
    assert grade_letter(item("B", "B or C")).outcome is Outcome.BAD_REFERENCE


def test_the_kind_of_answer_is_part_of_what_a_verdict_depends_on() -> None:
    assert verdict_key("v", "A", ["A"], None, "letter") != verdict_key("v", "A", ["A"], None)
    cache = VerdictCache(by_answer_kind(grade), "v")
    as_text = GradeItem("\\boxed{C) B}", ("B",), thinking_prefilled=False)
    assert cache.grade(as_text).outcome is not cache.grade(item("C) B")).outcome
