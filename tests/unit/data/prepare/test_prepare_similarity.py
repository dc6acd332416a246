"""When two problems are one: the rule's laws, on pairs like those of the real files."""

from __future__ import annotations

import numpy as np
import pytest

from deepscaler.data.prepare.normalize import NormalizedTexts, Vocabulary, words
from deepscaler.data.prepare.shingles import overlap, word_shingles
from deepscaler.data.prepare.similarity import Match, Side, compare, contest_numbers, holds_numbers


def same(first: str, second: str) -> bool:
    return first == second


def match(left: tuple[str, str], right: tuple[str, str]) -> Match | None:
    """The relation of two (problem, answer), which must not depend on their order."""
    normalized = NormalizedTexts([left[0], right[0]], Vocabulary())
    shingles = word_shingles(normalized)
    jaccard, containment = overlap(shingles.of(0), shingles.of(1))
    a, b = (Side.of(normalized, i, (side[1],)) for i, side in enumerate((left, right)))
    there = compare(a, b, jaccard=jaccard, containment=containment, same_answer=same)
    back = compare(b, a, jaccard=jaccard, containment=containment, same_answer=same)
    assert there is back
    return there


TOURNAMENT = (
    "Seven teams play a soccer tournament in which each team plays every other team exactly once. Each team has a "
    "$50\\%$ chance of winning each game it plays. The total points are accumulated to decide the ranks of the teams."
)
TEN = "integer with 10 factors"
SYSTEM = "If $x-y=6$ and $x+y=12$,"
ROOTS = "roots of $x^2-5x+6$."
ODD = "Let $f$ be odd. Is"
PARITY = "even, odd, or neither?"


@pytest.mark.parametrize(
    ("left", "right", "relation"),
    [
        ((TOURNAMENT, "831"), (TOURNAMENT.replace("$50\\%$", "$50$ \\%"), "831"), Match.VERBATIM),
        ((TOURNAMENT, "831"), (TOURNAMENT.replace("accumulated", "accumilated"), "831"), Match.REWORDED),
        ((TOURNAMENT, "831"), (TOURNAMENT, "830"), Match.CONFLICT),
        ((TOURNAMENT, "831"), (TOURNAMENT.replace("$50\\%$", "$ 50\\%$ "), "830"), Match.CONFLICT),
        (("What is $88 \\div (4 \\div 2)$?", "44"), ("What is $88 \\div 4 \\div 2$?", "11"), Match.SIMILAR),
        (("What is $2^{3+1}$?", "16"), ("What is $2^3+1$?", "9"), Match.SIMILAR),
        ((TOURNAMENT, "831"), (TOURNAMENT.replace("Seven", "Nine"), "977"), Match.SIMILAR),
        ((TOURNAMENT, "831"), (TOURNAMENT.replace("Seven", "Nine"), "831"), Match.SIMILAR),
        ((TOURNAMENT, "831"), ("How many positive divisors does 24 have?", "8"), None),
        (("How many primes are between 20 and 30?", "2"), ("How many primes are between 30 and 40?", "2"), None),
        ((f"What is the least {TEN}?", "48"), (f"What is the smallest {TEN}?", "48"), Match.REWORDED),
        ((f"{SYSTEM} what is $x$?", "9"), (f"{SYSTEM} what is $y$?", "3"), Match.SIMILAR),
        (("Find the sum of the " + ROOTS, "5"), ("Find the product of the " + ROOTS, "6"), Match.SIMILAR),
        ((f"{ODD} $f(f(x))$ {PARITY}", "odd"), (f"{ODD} $f(f(f(x)))$ {PARITY}", "odd"), Match.SIMILAR),
        (("What is $2n+3k$ for $n=1$?", "5"), ("What is $3n+2k$ for $n=1$?", "7"), None),
    ],
)
def test_words_numbers_and_answers_decide_together(
    left: tuple[str, str], right: tuple[str, str], relation: Match | None
) -> None:
    assert match(left, right) is relation


PLAIN = "Let $R$ be the region where $x^2 + y^2 < 17$ and $x > 3$ in the plane. Find the share of $R$ above the axis."
CONTEST = PLAIN.replace("Find the share of $R$ above the axis.", "The share of $R$ above the axis ")


@pytest.mark.parametrize(
    ("plain", "asked", "whole"),
    [
        (r"\frac{7}{18}", "is $m/n$ where $m$ and $n$ are relatively prime. Find $m+n$.", "25"),
        (r"11 \sqrt{5} + 11", r"can be written in the form $a+\sqrt{b}$. Find $a+b$.", "616"),
        ("1+274i", "is $a+bi$. Find $a+b$.", "275"),
        ("59955", "leaves which remainder when divided by 1000?", "955"),
        ("-136", "has which absolute value $|m|$?", "136"),
        (r"\frac{7}{9}", r"is $r$. Find $\lfloor 1000r \rfloor$.", "777"),
    ],
)
def test_a_contest_asking_for_a_whole_number_asks_the_same(plain: str, asked: str, whole: str) -> None:
    assert match((PLAIN, plain), (CONTEST + asked, whole)) is Match.ENCODED
    assert match((PLAIN, plain), (CONTEST + asked, str(int(whole) + 1))) is not Match.ENCODED


def test_contest_numbers_are_few_and_small() -> None:
    for answer in (r"\frac{7}{18}", "59955", "-136", r"3\sqrt{3}+2\pi", "(A)", "", "9" * 500, r"\frac{1}{0}"):
        numbers = contest_numbers(answer)
        assert len(numbers) <= 5
        assert all(0 <= number <= 999 for number in numbers)


def test_other_figures_make_other_problems_unless_the_answer_tells() -> None:
    text = "In the diagram, what is the value of $x$? [asy] draw({}); [/asy]"
    assert match((text.format("A"), "30"), (text.format("B"), "30")) is Match.SIMILAR
    assert match((text.format("A"), "30"), (text.format("A"), "30")) is Match.VERBATIM
    drawn = TOURNAMENT + " [asy] draw({}); [/asy]"
    assert match((drawn.format("A"), "831"), (drawn.format("B"), "831")) is Match.REWORDED


def test_numbers_are_held_as_often_as_they_occur() -> None:
    assert holds_numbers(words("2 and 2 and 3"), words("2, 2"))
    assert not holds_numbers(words("2 and 3"), words("2, 2"))


def test_identical_texts_are_one_problem_whatever_they_say() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        text = " ".join(rng.choice(["find", "$x$", "12", "the", r"\sqrt{2}", "sum", "of"], rng.integers(1, 30)))
        assert match((text, "7"), (text, "7")) is Match.VERBATIM
        assert match((text, "7"), (text, "8")) is Match.CONFLICT
