"""The labelled cases: at least 99.5 and 99% right, no wrong answer accepted, none endless, none failing."""

from __future__ import annotations

import pytest

from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Outcome
from grading_data import GRADING, labelled, texts
from hang_guard import hang_guard

pytestmark = pytest.mark.skipif(not GRADING.is_dir(), reason="the labelled cases of ../shared/grading are not here")


@pytest.mark.parametrize(("name", "most_refused"), [("dev", 0.005), ("dev2", 0.01)])
def test_labelled_cases(name: str, most_refused: float) -> None:
    cases = labelled(name)
    accepted, refused = [], []
    for case in cases:
        with hang_guard(case["id"]):
            verdict = grade(GradeItem(case["response"], texts(case["gold"]), thinking_prefilled=False))
        if (verdict.outcome is Outcome.CORRECT) is not case["expected"]:
            (refused if case["expected"] else accepted).append(case["id"])
        assert verdict.outcome in (Outcome.CORRECT, Outcome.WRONG, Outcome.NO_ANSWER, Outcome.BAD_REFERENCE)
    assert accepted == []
    assert len(refused) <= most_refused * len(cases), refused


# Where the decision differs from the recommended verdict; docs/grading-policy.md says why.
DECIDED_OTHERWISE = {
    "areal_tests-p0003": "rounding to fewer digits",
    "areal_tests-p0004": "seven digits of a repeating decimal",
    "handwritten-p0005": "an exact value for a rounded reference",
    "qwen_math_tests-p0000": "an exact value for a rounded reference",
    "qwen_math_tests-p0001": "four decimals of 8/3",
    "qwen_math_tests-p0002": "more decimals than the reference has",
    "math_verify_tests-p0009": "two decimals of 1/3",
    "math_verify_tests-p0010": "four decimals of 8/3",
    "olympiadbench_scoring-p0001": "a tolerance that no row declares",
    "olympiadbench_scoring-p0002": "a tolerance that no row declares",
    "math_verify_tests-p0000": "a comma for a decimal point",
    "math_verify_tests-p0001": "a comma for a decimal point",
    "math_verify_tests-p0002": "a comma for a decimal point",
    "math_verify_tests-p0003": "a comma for a decimal point",
    "math_verify_tests-p0004": "a chain whose links contradict each other",
    "math_verify_tests-p0005": "a chain whose links contradict each other",
    "math_verify_tests-p0007": "a chain whose links contradict each other",
    "math_verify_tests-p0008": "a chain whose links contradict each other",
    "math_verify_tests-p0011": "a last box with another value",
    "math_verify_tests-p0015": "boxes joined by more than a comma or an and",
    "math_verify_tests-p0016": "a function of another variable",
    "handwritten-p0015": "an unreduced ratio",
    "rl_framework_tests-p0000": "an unreduced fraction",
    "rl_framework_tests-p0002": "an answer without a box",
}


# The second set, by the reason, with the numbers of its cases.
DECIDED_OTHERWISE_2 = {
    "equal where both sides are defined": "g0178 g1286 g1838 g1845",
    "a chain of equal numbers has their value": "g0221",
    "25 digits are what is compared": "g0346",
    "a percent sign may be missing": "g1082",
    "integrals, derivatives, limits and endless sums are not worked out": "g0050 g0303 g0304 g0611 g0999 g1002",
    "relations between sets are not compared": "g0051",
    "an equation or inequality is not solved for the reader": "g0229 g0234 g0236 g0237 g0245 g0264",
    "words are compared as words": "g0399 g0408 g0564 g0566 g1574 g1580 g1594 g1595 g1814 g1933",
    "a name is not looked up": "g0457 g0527",
    "no reading of TeX": "g0443 g0572 g0603 g0681 g0851 g1976 g1989",
    "a letter in italics is a variable": "g0608",
    "families of values are compared by their formula": "g0641 g0651 g1273",
    "boxes joined by more than a comma or an and": "g0718 g0719 g1949 g1952",
    "labels make no list": "g1966 g1967",
    "brackets matter": "g1110",
    "log is to base ten, and a constant keeps its sign": "g1281 g1283",
}


def test_ambiguous_cases_are_decided_as_documented() -> None:
    different = {
        case["id"]
        for case in labelled("policy")
        if (grade(GradeItem(case["response"], texts(case["gold"]), thinking_prefilled=False)).reward == 1.0)
        is not case["expected"]
    }
    assert different == set(DECIDED_OTHERWISE)


def test_ambiguous_cases_of_the_second_set_are_decided_as_documented() -> None:
    different = {
        case["id"]
        for case in labelled("policy2")
        if (grade(GradeItem(case["response"], texts(case["gold"]), thinking_prefilled=False)).reward == 1.0)
        is not case["expected"]
    }
    assert different == set(" ".join(DECIDED_OTHERWISE_2.values()).split())
