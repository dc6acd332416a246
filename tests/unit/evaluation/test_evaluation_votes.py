"""maj@k against every draw and every way to break a tie."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.evaluation.votes import CORRECT, MAX_COMPARISONS, MAX_K, NO_ANSWER, answer_classes, majority_at_k


def by_brute_force(classes: list[int], k: int) -> float:
    total, draws = Fraction(0), 0
    for draw in combinations(classes, k):
        counts = Counter(draw)
        winners = [c for c, n in counts.items() if n == max(counts.values())]
        total += Fraction(winners.count(CORRECT), len(winners))
        draws += 1
    return float(total / draws)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_majority_is_the_mean_over_all_draws_and_ties(classes: list[int]) -> None:
    result = majority_at_k(classes)
    for k in range(1, len(classes) + 1):
        assert result[k] == pytest.approx(by_brute_force(classes, k), abs=1e-12)


def test_many_samples_are_voted_on_at_once_beyond_the_exact_range() -> None:
    classes = [CORRECT] * 30 + [2] * 30 + [NO_ANSWER] * 10
    result = majority_at_k(classes)
    assert sorted(result) == [*range(1, MAX_K + 1), 70]
    assert result[70] == 0.5
    assert result[1] == pytest.approx(30 / 70)
    assert result[2] == pytest.approx(result[1])  # two votes: agreement, or a tie broken at random
    assert 0 < result[MAX_K] < 1


def test_missing_answers_vote_and_lose() -> None:
    outcomes = ["correct", "no_answer", "truncated", "no_answer"]
    classes = answer_classes(["1", None, "1", None], outcomes, lambda a, b: a == b)
    assert classes == [CORRECT, NO_ANSWER, NO_ANSWER, NO_ANSWER]
    assert majority_at_k(classes)[4] == 0.0


def test_equal_answers_vote_together_whatever_they_look_like() -> None:
    values = {"1/2": 0.5, "0.5": 0.5, "\\frac12": 0.5, "2": 2.0, "2.0": 2.0}
    answers = ["7", "1/2", "2", "0.5", "\\frac12", "2.0"]
    outcomes = ["correct", *["wrong"] * 5]
    classes = answer_classes(answers, outcomes, lambda a, b: values[a] == values[b])
    assert classes == [CORRECT, 2, 3, 2, 2, 3]
    assert majority_at_k(classes)[6] == 0.0
    apart = answer_classes(answers, outcomes, lambda a, b: a == b)
    assert majority_at_k(apart)[6] == pytest.approx(1 / 6)  # six answers once each, were strings to vote


def test_comparisons_are_bounded_and_equal_strings_need_none() -> None:
    asked = []

    def equal(a: str, b: str) -> bool:
        asked.append((a, b))
        return False

    classes = answer_classes([str(i) for i in range(100)] * 2, ["wrong"] * 200, equal)
    assert len(asked) == MAX_COMPARISONS
    assert classes[:100] == classes[100:] == list(range(2, 102))


def test_an_answer_the_grader_could_not_judge_still_is_a_vote() -> None:
    classes = answer_classes(["3", "3", "4"], ["timeout", "wrong", "correct"], lambda a, b: False)
    assert classes == [2, 2, CORRECT]
