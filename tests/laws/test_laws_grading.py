"""Laws of grading over random answers: rewriting keeps a verdict, changing a number does not, order never matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from deepscaler.answers.equivalence import equivalent
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome

LAW = settings(max_examples=60, deadline=None, derandomize=True)
SMALL = st.integers(2, 99)
SIGNED = st.integers(-99, 99)
FRACTIONS = st.builds(Fraction, SIGNED, st.integers(1, 40))
SURDS = st.sampled_from([2, 3, 5, 6, 7, 10, 11, 13])


def same(a: str, b: str) -> bool:
    forth, back = equivalent(a, b), equivalent(b, a)
    assert forth.equal == back.equal, (a, b)
    return forth.equal


def frac(value: Fraction) -> str:
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


@LAW
@given(FRACTIONS, st.integers(2, 30))
def test_fractions(value: Fraction, factor: int) -> None:
    spellings = [
        f"{value.numerator * factor}/{value.denominator * factor}",
        rf"\dfrac{{{value.numerator * factor}}}{{{value.denominator * factor}}}",
        f"x = {value.numerator}/{value.denominator}",
        rf"{frac(value - factor)}+{factor}",
        rf"\frac{{{frac(value)}}}{{{frac(Fraction(factor))}}}\cdot{factor}",
    ]
    assert [s for s in spellings if not same(s, frac(value))] == []
    assert not same(frac(value), frac(value + Fraction(1, factor)))
    assert value == 0 or not same(frac(value), frac(-value))


@LAW
@given(FRACTIONS, FRACTIONS.filter(bool), SURDS)
def test_numbers_with_a_root(a: Fraction, b: Fraction, n: int) -> None:
    answer = rf"{frac(a)}+{frac(b)}\sqrt{{{n}}}"
    norm = a * a - b * b * n
    assert same(answer, rf"{frac(b)}\cdot{n}^{{1/2}}{'+' if a >= 0 else ''}{frac(a)}")
    assert same(answer, rf"\frac{{{frac(norm)}}}{{{frac(a)}-({frac(b)})\sqrt{n if n < 10 else f'{{{n}}}'}}}")
    assert not same(answer, rf"{frac(a)}+{frac(b)}\sqrt{{{n + 1}}}")
    assert not same(answer, rf"{frac(a)}-({frac(b)})\sqrt{{{n}}}")
    assert not same(answer, rf"{frac(a + 1)}+{frac(b)}\sqrt{{{n}}}")


@LAW
@given(st.lists(SIGNED, min_size=2, max_size=4, unique=True), SMALL)
def test_polynomials(roots: list[int], other: int) -> None:
    factored = "".join(f"(x-({root}))" for root in roots)
    coefficients = [1]
    for root in roots:
        coefficients = [a - root * b for a, b in zip([*coefficients, 0], [0, *coefficients], strict=True)]
    degree = len(roots)
    terms = [f"({c})x^{{{degree - i}}}" for i, c in enumerate(coefficients)]
    assert same(factored, "+".join(terms))
    assert same(f"{factored}=0", f"{other}({'+'.join(reversed(terms))})=0")
    changed = [*terms[:-1], f"({coefficients[-1] + other})"]
    assert not same(factored, "+".join(changed))
    assert not same(factored, factored.replace("x", "y"))


@LAW
@given(st.lists(FRACTIONS, min_size=2, max_size=6, unique=True), SMALL)
def test_lists_sets_and_tuples(values: list[Fraction], other: int) -> None:
    shuffled = values[1:] + values[:1]
    texts = [frac(v) for v in values]
    moved = [f"{v.numerator}/{v.denominator}" for v in shuffled]
    assert same(", ".join(texts), r" \text{ and } ".join(moved))
    assert same(r"\{" + ",".join(texts) + r"\}", ",".join(moved))
    assert same(
        "(" + ",".join(texts) + ")",
        r"\left(" + ", ".join(f"{v.numerator}/{v.denominator}" for v in values) + r"\right)",
    )
    assert not same("(" + ",".join(texts) + ")", "(" + ",".join(moved) + ")")
    assert not same(",".join(texts), ",".join(moved[1:]))
    assert not same(",".join(texts), ",".join([*moved[1:], frac(max(values) + other)]))
    assert not same(texts[0], ",".join(texts))


@LAW
@given(FRACTIONS, st.integers(1, 50), st.booleans(), st.booleans())
def test_intervals(low: Fraction, width: int, left: bool, right: bool) -> None:
    high = low + width
    first, last = "[" if left else "(", "]" if right else ")"
    interval = f"{first}{frac(low)}, {frac(high)}{last}"
    below, above = r"\le" if left else "<", r"\leq" if right else "<"
    chain = f"{frac(low)} {below} x {above} {frac(high)}"
    assert same(interval, chain)
    assert same(interval, rf"x \in \left{first}{frac(low)},{frac(high)}\right{last}")
    assert not same(interval, f"{'(' if left else '['}{frac(low)}, {frac(high)}{last}")
    assert not same(interval, f"{first}{frac(low)}, {frac(high + 1)}{last}")
    assert not same(chain, chain.replace("x", "t"))


@LAW
@given(st.integers(10**9, 10**30), st.integers(1, 10**6))
def test_long_numbers_are_exact(value: int, step: int) -> None:
    assert same(str(value), f"{value:,}")
    assert same(str(value), rf"{value - step}+{step}")
    assert not same(str(value), str(value + step))
    assert not same(f"{value}/7", f"{value + 7 * step}/7")


@LAW
@given(st.integers(1, 99), st.sampled_from([3, 7, 9, 11, 13, 21, 37]), st.integers(1, 6))
def test_a_rounded_value_is_not_the_exact_one(top: int, bottom: int, digits: int) -> None:
    if top % bottom:
        assert not same(f"{top}/{bottom}", f"{top / bottom:.{digits}f}")
        assert same(f"{top}/{bottom}", f"{top / bottom:.10f}")


@LAW
@given(st.text(max_size=60), st.sampled_from(["42", r"\frac12", "x+1", "(1,2)", r"\text{yes}"]))
def test_any_text_has_a_verdict_and_the_same_both_ways(text: str, reference: str) -> None:
    same(text, reference)
    assert grade(GradeItem(f"\\boxed{{{text}}}", [reference], thinking_prefilled=False)).outcome in set(Outcome)


SIGNS = (
    r"\frac \sqrt \pi \pm \in \cup \le \{ \} \text{~and~} \text{cm} \% ^\circ \infty \sin \begin{pmatrix} "
    r"\end{pmatrix} \\ & \sum_{k=1}^ \$ \mathbb{R} \setminus \ldots sqrt or"
)
MATH = st.lists(st.sampled_from([*"0123456789xyabn+-*/^_=<>(){}[],.:;|! ", *SIGNS.split()]), max_size=25).map("".join)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(MATH, MATH)
def test_any_mixture_of_signs_has_a_verdict_and_the_same_both_ways(a: str, b: str) -> None:
    same(a, b)
    if a.strip():
        assert equivalent(a, a).equal


def test_verdicts_do_not_depend_on_the_hash_seed() -> None:
    pairs = [(rf"\sin({k}x+y)+\sqrt{{z}}", rf"\sqrt z+\sin(y+{k}x)") for k in range(20)]
    code = (
        "import json, sys; from deepscaler.answers.equivalence import equivalent;"
        "print(json.dumps([equivalent(a, b).equal for a, b in json.load(sys.stdin)]))"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            input=json.dumps(pairs),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert said == {json.dumps([True] * len(pairs)) + "\n"}
