"""Every form an answer takes: spellings of one meaning are equal, look-alikes are not, whichever way round."""

from __future__ import annotations

from itertools import combinations

import pytest

from deepscaler.answers.equivalence import equivalent
from grading_data import read_forms

SAME, DIFFERENT = read_forms("= "), read_forms("! ")
RIGHT, WRONG = read_forms("> "), read_forms("< ")


@pytest.mark.parametrize("form", SAME)
def test_spellings_of_one_meaning_are_equal(form: str) -> None:
    pairs = [pair for meanings in SAME[form] for pair in combinations(meanings, 2)]
    assert [pair for pair in pairs if not equivalent(*pair).equal] == []
    assert [pair for pair in pairs if not equivalent(*reversed(pair)).equal] == []


@pytest.mark.parametrize("form", DIFFERENT)
def test_answers_that_look_alike_are_told_apart(form: str) -> None:
    pairs = [pair for answers in DIFFERENT[form] for pair in combinations(answers, 2)]
    assert [pair for pair in pairs if equivalent(*pair).equal] == []
    assert [pair for pair in pairs if equivalent(*reversed(pair)).equal] == []


@pytest.mark.parametrize("form", RIGHT)
def test_answers_that_say_more_than_the_reference_asks_are_right(form: str) -> None:
    pairs = [(answer, reference) for reference, *answers in RIGHT[form] for answer in answers]
    assert [pair for pair in pairs if not equivalent(*pair).equal] == []


@pytest.mark.parametrize("form", WRONG)
def test_answers_that_do_not_say_what_the_reference_asks_are_wrong(form: str) -> None:
    pairs = [(answer, reference) for reference, *answers in WRONG[form] for answer in answers]
    assert [pair for pair in pairs if equivalent(*pair).equal] == []


def test_the_table_holds_a_thousand_pairs() -> None:
    groups = [group for table in (SAME, DIFFERENT) for lines in table.values() for group in lines]
    assert sum(len(group) * (len(group) - 1) // 2 for group in groups) > 1000
