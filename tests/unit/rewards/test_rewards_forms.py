"""Every form an answer takes: spellings of one meaning are equal, look-alikes are not, whichever way round."""

from __future__ import annotations

from itertools import combinations

import pytest
from answer_forms import DIFFERENT, SAME

from deepscaler.rewards.equivalence import equivalent


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


def test_there_are_hundreds_of_pairs() -> None:
    count = sum(len(s) * (len(s) - 1) // 2 for table in (SAME, DIFFERENT) for groups in table.values() for s in groups)
    assert count > 1000
