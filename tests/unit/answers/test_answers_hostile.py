"""Answers made to exhaust the grader: each comparison ends soon, raises nothing, and accepts none of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from deepscaler.answers.equivalence import equivalent, explain, is_parsable
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome
from hang_guard import hang_guard

REFERENCES = ("42", "x+1", r"\sqrt{2}", "(1,2)", "x^2+y^2=1")
NUMBERS = [
    "9^{9^9}",
    "9^{9^{9^9}}",
    "9**9**9**9",
    "10^{1000000000}",
    "99999999!",
    "4000!",
    "((((9!)!)!)!)!",
    "(10^{100000})!/(10^{99999})!",
    "123456789^{987654321} \\bmod 10",
    r"\sqrt[1000000007]{3}^{1000000007^{3}}",
    "9" * 3000,
    "9" * 10**6,
    "0." + "1" * 2900,
    "1e5000",
    "1e99999999",
    "e^{10^{10}}",
    r"\sin(10^{30000})",
    r"\pi+10^{-10^{10}}",
    r"\pi^{\pi^{\pi^{\pi^{\pi}}}}",
    r"\lfloor 10^{5000}\pi\rfloor",
    r"\binom{10^{10}}{10^5}",
    r"\gcd(10^{3000},10^{2999})",
    "+".join(f"2^{{-{10000 + i * 97}}}" for i in range(100)),
    "+".join(rf"\frac{{1}}{{3^{{{20000 + i}}}}}" for i in range(100)),
    r"\sum_{k=1}^{10^{12}} \frac1k",
    r"\sum_{k=1}^{2000}\sum_{j=1}^{2000} \frac{1}{k+j}",
    r"\sum_{k=1}^{2000} k!",
    r"\sum_{k=1}^{2000} \sin k",
    r"\sum_{n=1}^\infty \frac1n",
    r"\sum_{n=1}^\infty \sum_{m=1}^\infty \frac{1}{n^2m^2}",
    r"\prod_{k=1}^{2000} k^{k}",
    r"\int_0^1 x^x \sin(x^{x^x})\,dx",
]
EXPRESSIONS = [
    "(x+1)^{3000}",
    "(x+1)^{99999}",
    "x^{9^{9^9}}",
    "((((x^{99})^{99})^{99})^{99})^{99}",
    r"\sin(x)^{20}\cos(x)^{20}+\tan(x)^{15}\sin(3x)^{7}",
    "+".join(rf"\sqrt{{x+{i}}}" for i in range(200)),
    "+".join(rf"\sin^{{{i}}}(x+{i})" for i in range(150)),
    "+".join(f"(x+{i})!" for i in range(200)),
    "+".join(rf"\binom{{x+{i}}}{{y}}" for i in range(130)),
    "".join(f"(x+{i})" for i in range(200)),
    "x*" * 1400 + "x",
    "x^2" * 900,
    r"\frac{a}{b}" * 270,
]
NESTED = [
    "(" * 500 + "42" + ")" * 500,
    "[(" * 700,
    "{" * 3000,
    "2^{" * 500 + "2" + "}" * 500,
    "2^" * 1000 + "2",
    r"\frac{1}{" * 400 + "2" + "}" * 400,
    r"\frac" * 600,
    r"\sqrt" * 500 + "2",
    r"\sqrt{" * 400 + "2" + "}" * 400,
    r"\text{" * 400 + "42" + "}" * 400,
    r"\boxed{" * 300 + "42" + "}" * 300,
    r"\left|" * 300 + "x" + r"\right|" * 300,
    "f(" * 900 + "x" + ")" * 900,
    r"\sin " * 600 + "x",
]
UNITS = (
    r"- +- ! ' | ^ _ & = < : \ $ * (A) A. 1, a, 1= x= 1< 1: 1/ 1+ (1,2), 1,234, \pm1 \pm~x+ \text{~and~} \cup "
    r"(1,2)\cup [1,2]\cap \begin{pmatrix} \begin{pmatrix}1&2\\3&4\end{pmatrix} x_ x' sqrt sin 0.333... \lfloor "
    r"\overline{ ∑ ⁹ ½ ² 𝟙"
)
REPEATED = [unit * (2800 // len(unit)) for unit in [*UNITS.split(), "12 345", "1 234 ", "and ", "for all ", "ab "]]


@pytest.mark.parametrize("kind", ["numbers", "expressions", "nested", "repeated"])
def test_hostile_answers_end_soon_and_are_wrong(kind: str) -> None:
    answers = {"numbers": NUMBERS, "expressions": EXPRESSIONS, "nested": NESTED, "repeated": REPEATED}[kind]
    for answer in answers:
        for reference in (*REFERENCES, answer[1:]):
            with hang_guard((answer[:60], reference[:60])):
                equality = equivalent(answer, reference)
            assert not (equality.equal and reference in REFERENCES), (answer[:60], reference)
        assert explain(answer, "42")
        assert is_parsable(answer) in (True, False)


def test_a_hostile_answer_equals_itself() -> None:
    for answer in (*NUMBERS, *EXPRESSIONS):
        assert equivalent(answer, f" {answer} ").equal


def test_huge_numbers_are_compared_where_they_can_be() -> None:
    assert equivalent("2^{1000000}", "4^{500000}").equal
    assert not equivalent("2^{1000000}", "2^{1000001}").equal
    assert not equivalent("2^{1000000}+1", "2^{1000000}").equal
    assert equivalent("2024!", r"2024\cdot2023!").equal
    assert not equivalent("2024!+1", "2024!").equal
    assert not equivalent("1/2004!", "1/2006!").equal


@pytest.mark.parametrize(
    "completion",
    [
        "\\boxed{" * 5000,
        "\\boxed{" * 5000 + "42" + "}" * 4999,
        "<think>" * 5000 + "\\boxed{42}",
        "{" * 200_000 + "\\boxed{43}",
        "\\boxed{1} and " * 5000 + "\\boxed{42}",
    ],
)
def test_hostile_completions_are_no_right_answer(completion: str) -> None:
    with hang_guard(completion[:60]):
        verdict = grade(GradeItem(completion, ["42"], thinking_prefilled=False))
    assert verdict.outcome is not Outcome.CORRECT


def test_threads_get_the_same_verdicts_and_deep_stacks_are_no_failure() -> None:
    pairs = [
        (rf"\sqrt{{{k}}}+\cot {k}^\circ+\Gamma_{{{k}}}", rf"\cot({k}^\circ)+{k}^{{1/2}}+\Gamma_{k}")
        for k in range(2, 10)
    ]
    with ThreadPoolExecutor(4) as threads:
        said = list(threads.map(lambda pair: equivalent(*pair).equal, pairs * 10))
    assert said == [True] * len(said)
    deep = "2^{" * 55 + "2" + "}" * 55

    def below(frames: int) -> bool:
        return below(frames - 1) if frames else equivalent(deep, "2").equal

    assert below(200) is False
