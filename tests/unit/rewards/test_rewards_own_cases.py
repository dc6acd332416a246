"""Labelled cases that ship with the code: no wrong answer accepted, no right one refused, without ../shared.

Whole completions with their outcomes (own_cases.jsonl); completions around every answer of answer_forms.txt, right and
wrong; and these answers with one digit changed.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

from deepscaler.answers import equal
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome
from grading_data import mutations, read_forms

CASES = Path(__file__).with_name("own_cases.jsonl")
FRAMES = (
    "\\boxed{%s}",
    "So the result is $\\boxed{%s}$.",
    "<think>\nFirst I try \\boxed{0}, which fails.\n</think>\n\n**Final answer**\n\\[\\boxed{%s}\\]",
    "Attempt: \\boxed{1}. That forgets a case. Corrected: $$\\boxed{ %s }$$ which was to be found.",
)
# Equal to what they were made from: a digit that the value does not depend on, or another name of the same thing.
STILL_EQUAL = {
    ("0/5", "0/1"),
    (r"A=\pi r^2=25\pi", r"A=\pi r^7=25\pi"),
    (r"25\pi \approx 78.54", r"25\pi \approx 78.56"),
    (r"25\pi \approx 78.54", r"25\pi \approx 79.54"),
    (r"3 \bmod 7", r"3 \bmod 5"),
    (r"10\pmod{7}", r"17\pmod{7}"),
    (r"\hspace{1mm}16", r"\hspace{8mm}16"),
    ("i^{2023}", "i^{2027}"),
    ("i^{2023}", "i^{2623}"),
    (r"\lceil 2.3\rceil", r"\lceil 2.7\rceil"),
    (r"x>0\text{ and }x<3\text{ and }x<2", r"x>0\text{ and }x<8\text{ and }x<2"),
    (r"x>2 \land x<1", r"x>7 \land x<1"),
    ("(1+i)(x+y)=0", "(7+i)(x+y)=0"),
    (r"\{x_1 \mid x_1>0\}", r"\{x_7 \mid x_1>0\}"),
}


def labelled_pairs() -> Iterator[tuple[str, str, bool]]:
    """(answer, reference, right) of answer_forms.txt, both ways round where a form has none."""
    for mark, right in (("= ", True), ("! ", False)):
        for lines in read_forms(mark).values():
            yield from ((a, b, right) for line in lines for a, b in permutations(line, 2))
    for mark, right in (("> ", True), ("< ", False)):
        for lines in read_forms(mark).values():
            yield from ((a, reference, right) for reference, *answers in lines for a in answers)


def test_whole_completions_end_as_labelled() -> None:
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines()]
    different = []
    for case in cases:
        verdict = grade(GradeItem(case["completion"], case["references"], case["thinking_prefilled"]))
        if verdict.outcome.value != case["outcome"]:
            different.append((case["completion"], case["references"], verdict))
    assert different == []
    assert {case["outcome"] for case in cases} >= {"correct", "wrong", "no_answer", "bad_reference"}


def test_no_wrong_answer_is_accepted_and_no_right_one_refused_inside_a_completion() -> None:
    draw = random.Random(3)
    accepted, refused, count = [], [], 0
    for answer, reference, right in labelled_pairs():
        completion = draw.choice(FRAMES) % answer
        correct = grade(GradeItem(completion, [reference], thinking_prefilled=False)).outcome is Outcome.CORRECT
        if correct is not right:
            (refused if right else accepted).append((completion, reference))
        count += 1
    assert accepted == []
    assert refused == []
    assert count > 5_000


def test_changing_one_digit_changes_the_answer() -> None:
    draw = random.Random(5)
    answers = [answer for lines in read_forms("= ").values() for line in lines for answer in line]
    pairs = [(answer, other) for answer in answers for other in mutations(answer, draw, 2)]
    assert len(pairs) > 1_500
    assert {pair for pair in pairs if equal(*pair)} <= STILL_EQUAL
