"""Every one of 10,000 reference answers equals itself and no other, nor itself with a digit changed."""

from __future__ import annotations

import random
import re

import pytest

from deepscaler.answers.equivalence import equivalent, is_parsable
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome
from grading_data import DATA, mutations, references

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the answers of ../shared/data are not here")
# Words with a number, a condition in words, an interval behind a letter: compared token by token.
OPAQUE = 3


def test_every_reference_graded_against_itself_is_correct() -> None:
    count = 0
    for where, text in references():
        verdict = grade(GradeItem(f"\\boxed{{{text}}}", [text], thinking_prefilled=False))
        assert verdict.outcome is Outcome.CORRECT, (where, text, verdict)
        count += 1
    assert count > 10_000


def test_every_reference_is_equal_to_itself_without_a_look_at_the_text() -> None:
    for text in {text for _, text in references()}:
        assert equivalent(f"\\displaystyle {text}", text).equal, text


def test_nearly_all_references_are_understood() -> None:
    words = re.compile(r"(\\text\{)?[A-Za-z ]+\}?")
    strange = {text for _, text in references() if not is_parsable(text) and not words.fullmatch(text)}
    assert len(strange) <= OPAQUE, strange


def test_changing_one_digit_changes_the_answer() -> None:
    draw = random.Random(5)
    answers = sorted({text for _, text in references() if "approx" not in text})  # what is near is not compared
    pairs = [(text, other) for text in answers for other in mutations(text, draw, 4)]
    assert len(pairs) > 8_000
    assert [pair for pair in pairs if equivalent(*pair).equal] == []


def test_references_that_look_alike_are_told_apart() -> None:
    """Each with the next two in the order of letters and digits; the equal ones were read one by one."""
    answers = sorted({text for _, text in references()}, key=_order)
    pairs = [(a, b) for i, a in enumerate(answers) for b in answers[i + 1 : i + 3] if _plain(a) != _plain(b)]
    assert len(pairs) > 6_000
    equal = {pair for pair in pairs if equivalent(*pair).equal}
    assert equal <= {tuple(sorted(pair, key=_order)) for pair in TRULY_EQUAL}


def _order(text: str) -> tuple[str, str]:
    return _plain(text), text


def _plain(text: str) -> str:
    for word in ("\\left", "\\right", "\\text", "\\dfrac", "\\tfrac", "\\frac", "dfrac", "tfrac"):
        text = text.replace(word, "")
    return "".join(c for c in text if c.isalnum() or c in "+-.")


TRULY_EQUAL = [
    (r"-\frac{5}{3}", r"-\frac{5}{3}."),
    ("0.2", "0.20"),
    ("10001", "10001_2"),
    ("106", r"106^\circ"),
    (r"\frac{11}{15}", r"\frac{11}{15}\text{ days}"),
    ("117", r"117^\circ"),
    ("13.5", r"13.5\text{ pounds}"),
    (r"137.5\text{ degrees}", r"137 \frac{1}{2}"),
    ("140", r"140\text{ degrees}"),
    ("147", r"147\text{ cm}"),
    ("15000", r"15000 \text{ kcal m}^{-2} \text{yr}^{-1}"),
    (r"18^\circ", r"18 \text{ degrees}"),
    ("1950", r"1950^\circ C"),
    (
        r"\frac{2-\omega^{2}-\frac{\omega}{4} i}{\omega^{4}-\frac{63}{16} \omega^{2}+4}",
        r"\frac{2-\omega^{2}-\frac{\omega i}{4}}{\omega^{4}-\frac{63}{16} \omega^{2}+4}",
    ),
    ("2.5", "2.50"),
    ("205", r"205^\circ"),
    (r"20\text{ square units}", r"20 \text{ sq units}"),
    ("22.5", r"22.5^{\circ}"),
    ("270", r"270^\circ"),
    ("3.3e-10", r"3.3 \times 10^{-10}"),
    ("3.5", r"\$3.50"),
    ("3.61e-10", r"3.61 \times 10^{-10}"),
    (r"30^\circ", r"30^\circ."),
    ("4.4e7", r"4.4 \times 10^7"),
    ("428", r"428\text{ square centimeters}"),
    ("441", r"441\text{ pounds}"),
    ("48", "48.0"),
    ("5.5", r"\$5.50"),
    (r"6.43 \times 10^{16}", r"6.43 \times 10^{16} \text{ cm}^{-3}"),
    ("810", r"810^\circ"),
    ("840", r"840\text{ square inches}"),
    ("861", "861_{12}"),
    ("864", r"864 \mbox{ inches}^2"),
    (r"\arcsin{\frac{10}{13}}", r"\arcsin{\frac{1}{1.3}}"),
    (r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}", r"\begin{pmatrix} -1 & 0 \\ 0 & -1 \end{pmatrix}."),
]
