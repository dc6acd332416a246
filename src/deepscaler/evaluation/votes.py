"""maj@k: the accuracy of the answer that most of k samples agree on.

Votes go to classes of equal answers, not to strings. A sample without a gradable answer votes for "no answer", which is
a class of its own and loses when it wins. Ties are broken at random, and their expectation is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import comb

import numpy as np
from numpy.typing import NDArray

from deepscaler.types import Outcome

NO_ANSWER = 0  # the class of samples without an answer
CORRECT = 1  # the class of samples graded correct: they all equal the reference
MAX_COMPARISONS = 400  # pairs of distinct wrong answers compared per problem; further ones count as different
MAX_K = 32  # maj@k is exact up to here, and for k = all samples
VOTELESS = frozenset({Outcome.NO_ANSWER.value, Outcome.TRUNCATED.value})

Equal = Callable[[str, str], bool]


def answer_classes(answers: Sequence[str | None], outcomes: Sequence[str], equal: Equal) -> list[int]:
    """The class of every sample of one problem: NO_ANSWER, CORRECT, or a number from 2 for each distinct wrong answer.

    Equal strings are one class without asking; other wrong answers join the first class whose first answer is `equal`.
    """
    numbers: dict[str, int] = {}
    firsts: list[str] = []
    comparisons = 0
    classes = []
    for answer, outcome in zip(answers, outcomes, strict=True):
        if outcome == Outcome.CORRECT.value:
            classes.append(CORRECT)
            continue
        if answer is None or outcome in VOTELESS:
            classes.append(NO_ANSWER)
            continue
        if answer not in numbers:
            found = None
            for place, first in enumerate(firsts):
                if comparisons >= MAX_COMPARISONS:
                    break
                comparisons += 1
                if equal(answer, first):
                    found = place
                    break
            if found is None:
                found = len(firsts)
                firsts.append(answer)
            numbers[answer] = found + 2
        classes.append(numbers[answer])
    return classes


def majority_at_k(classes: Sequence[int]) -> dict[int, float]:
    """k -> chance that the vote of k of these n samples, drawn without replacement, is right. One problem.

    Exact for k up to MAX_K and for k = n: it averages over all C(n, k) draws and over ties, so it is unbiased for the
    vote of k new samples.
    """
    counts = Counter(classes)
    correct = counts.pop(CORRECT, 0)
    values = _vote(correct, tuple(sorted(counts.values(), reverse=True)), min(len(classes), MAX_K))
    result = {k: float(values[k]) for k in range(1, min(len(classes), MAX_K) + 1)}
    if len(classes) > MAX_K:
        most = max(counts.values(), default=0)
        ties = sum(size == correct for size in counts.values())
        result[len(classes)] = 0.0 if correct < most or not correct else 1.0 / (1 + ties)
    return result


@lru_cache(maxsize=65536)
def _vote(correct: int, others: tuple[int, ...], max_k: int) -> NDArray[np.float64]:
    """[max_k + 1]: by k, the chance that the correct class (its size) wins against the others (their sizes).

    ways[m, t, s] counts the draws of s samples from the other classes in which none has more than m and t have exactly
    m. With m correct ones, k = m + s samples are drawn, and the correct class wins with chance 1 / (1 + t).
    """
    top = min(correct, max_k)
    ways = np.zeros((top + 1, max_k + 1, max_k + 1))
    ways[:, 0, 0] = 1.0
    for size in others:
        added = np.zeros_like(ways)
        for drawn in range(min(size, top) + 1):
            shifted = ways[:, :, : max_k + 1 - drawn] * float(comb(size, drawn))
            added[drawn + 1 :, :, drawn:] += shifted[drawn + 1 :]
            added[drawn, 1:, drawn:] += shifted[drawn, :-1]
        ways = added
    share = 1.0 / (1.0 + np.arange(max_k + 1))
    won = np.einsum("mts,t->ms", ways, share)
    result = np.zeros(max_k + 1)
    for m in range(1, top + 1):
        result[m:] += comb(correct, m) * won[m, : max_k + 1 - m]
    total = correct + sum(others)
    return result / np.array([float(comb(total, k)) for k in range(max_k + 1)])
