"""What counts as the same wording, and how alike two wordings are."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.data.prepare.normalize import NormalizedTexts, Vocabulary, figure_digest, words
from deepscaler.data.prepare.shingles import BANDS, ROWS, WINDOW, candidate_pairs, overlap, signatures, word_shingles


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (r"Find $\dfrac{1}{2}x_{}^{}$.", r"find $\frac12 x$"),
        (r"If $x = 1{,}000\,$, find $x$", "If $x=1000$ find $x$"),
        (r"Let \[ax^2+bx=0\] hold", r"Let $a x^{2} + b x = 0$ hold"),
        (r"the angle $\angle ABC$ of 30 degrees", r"the angle angle $A B C$ of $30^\circ$"),
        ("In triangle $ABC$ [asy] draw(A--B); [/asy]", "In triangle $ABC$"),
        (r"$|z| \le 2$ and $a \ne b$", r"$\mid z\mid\leq 2$ and $a\neq b$"),
        ("Five  people\r\nsit", "5 people sit"),
        (r"\begin{align*} a&=1 \\ b&=2 \end{align*}", r"a=1, b=2"),
        ("它 is 5", "它is 5"),
        (r"$\frac1{12}$ and $\binom52$", r"$\dfrac{1}{12}$ and $\binom{5}{2}$"),
    ],
)
def test_typesetting_makes_no_difference(left: str, right: str) -> None:
    assert words(left) == words(right)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("primes between 20 and 30", "primes between 30 and 40"),
        ("$x^2 - 4$", "$x^2 + 4$"),
        (r"$\sin x$", r"$\cos x$"),
        ("$n!$", "$n$"),
        ("1.5 litres", "15 litres"),
        (r"costs \$5 and \$6", r"costs \$5 and \$7"),
        ("3,4", "34"),
    ],
)
def test_mathematics_makes_a_difference(left: str, right: str) -> None:
    assert words(left) != words(right)


def test_figures_are_told_apart_by_their_code_alone() -> None:
    first, spaced = "x [asy] draw(A--B); [/asy]", "other text [asy]draw( A--B );[/asy] more"
    assert figure_digest(first) == figure_digest(spaced) != figure_digest("[asy] draw(A--C); [/asy]")
    assert figure_digest("no figure") == ""
    assert figure_digest("[asy] never closed") != ""


@settings(max_examples=100, deadline=None)
@given(st.text())
def test_no_text_is_too_odd(text: str) -> None:
    assert all(words(text)) or words(text) == []
    figure_digest(text)


def _wordings(texts: list[str]) -> NormalizedTexts:
    return NormalizedTexts(texts, Vocabulary())


def _pairs(text: str) -> set[tuple[str, str]]:
    tokens = text.split()
    return set(pairwise(tokens))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=20), min_size=2, max_size=2))
def test_overlap_is_that_of_the_sets_of_word_pairs(tokens: list[list[str]]) -> None:
    first, second = (" ".join(row) for row in tokens)
    shingles = word_shingles(_wordings([first, second]))
    a, b = _pairs(first), _pairs(second)
    jaccard, containment = overlap(shingles.of(0), shingles.of(1))
    assert jaccard == pytest.approx(len(a & b) / len(a | b))
    assert containment == pytest.approx(len(a & b) / min(len(a), len(b)))


def test_short_and_empty_problems_have_one_and_no_shingle() -> None:
    shingles = word_shingles(_wordings(["", "solve", "solve it", "solve it now", "."]))
    assert shingles.sizes.tolist() == [0, 1, 1, 2, 0]
    assert overlap(shingles.of(0), shingles.of(4)) == (0.0, 0.0)


def test_signatures_estimate_jaccard() -> None:
    rng = np.random.default_rng(3)
    base = rng.integers(0, 5000, 200)
    texts = [" ".join(f"w{w}" for w in base)]
    for changed in (10, 40, 100):
        other = base.copy()
        other[:changed] = rng.integers(5000, 9000, changed)
        texts.append(" ".join(f"w{w}" for w in other))
    shingles = word_shingles(_wordings(texts))
    signature = signatures(shingles, BANDS * ROWS, seed=1)
    for row in (1, 2, 3):
        estimate = float((signature[0] == signature[row]).mean())
        assert estimate == pytest.approx(overlap(shingles.of(0), shingles.of(row))[0], abs=0.1)


def test_planted_near_duplicates_become_candidates_and_strangers_do_not() -> None:
    rng = np.random.default_rng(5)
    texts = []
    for _ in range(300):
        base = rng.integers(0, 20_000, 40)
        near = base.copy()
        near[rng.integers(0, 40, 6)] = rng.integers(20_000, 30_000, 6)
        texts += [" ".join(f"w{w}" for w in row) for row in (base, near)]
    shingles = word_shingles(_wordings(texts))
    likeness = np.zeros(len(texts), np.uint64)
    pairs = candidate_pairs(signatures(shingles, BANDS * ROWS, seed=1), likeness, floor=0.2)
    found = set(map(tuple, pairs.tolist()))
    planted = {(at, at + 1) for at in range(0, len(texts), 2)}
    assert len(planted & found) >= 298
    assert len(found - planted) <= 3


def test_a_bucket_of_one_pattern_costs_a_window_per_row_and_keeps_equal_numbers_together() -> None:
    """Hundreds of "greatest common divisor of X and Y": pairs grow with rows, and a true twin is still found."""
    count = 500
    signature = np.zeros((count, BANDS * ROWS), np.uint32)
    likeness = np.arange(count, dtype=np.uint64)
    likeness[count - 1] = likeness[0]
    pairs = candidate_pairs(signature, likeness, floor=0.2)
    assert len(pairs) <= count * WINDOW
    assert [0, count - 1] in pairs.tolist()
