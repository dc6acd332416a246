"""What the rules of `grader.answer` take for the answer, on completions as models write them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deepscaler.config.answer_rules import ANSWER_RULES
from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.rewards.answer_rules import RULES
from deepscaler.rewards.extract import extract_answer
from deepscaler.rewards.isolation.pool import GraderPool, make_grader
from deepscaler.types import GradeItem, Outcome

GSM8K = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips.\n#### 72"
LABELLED = [
    # rule, completion, answer
    ("last_number", "She has 3 apples and 4 pears, so 7 pieces of fruit.", "7"),
    ("last_number", "The total is $1,234.50.", "1,234.50"),
    ("last_number", "It costs \\$18.", "18"),
    ("last_number", "the temperature is -5 degrees", "-5"),
    ("last_number", "x = \u22123", "-3"),
    ("last_number", "between 3-5", "5"),
    ("last_number", "10 - 4 = 6.", "6"),
    ("last_number", "so it is 50%.", "50%"),
    ("last_number", "the probability is 3/4", "3/4"),
    ("last_number", "thus $-\\frac{3}{4}$.", "-\\frac{3}{4}"),
    ("last_number", "thus \\dfrac12", "\\frac{1}{2}"),
    ("last_number", "about 1.2e-3 m", "1.2e-3"),
    ("last_number", "choose 1, 2, 3", "3"),
    ("last_number", "He is 3rd; 12kg", "12"),
    ("last_number", "half: .5", ".5"),
    ("last_number", "see H2O and x1", None),
    ("last_number", "I cannot say.", None),
    ("after_####", GSM8K, "72"),
    ("after_####", "#### $1,000.", "$1,000"),
    ("after_####", "#### 12 apples\n", "12 apples"),
    ("after_####", "#### 3\nNo, wait.\n#### 4\n", "4"),
    ("after_####", "### 3", None),
    ("after_####", "so it is 5. ####   ", None),
    ("the answer is", "The answer is: 12.", "12"),
    ("the answer is", "So the answer is 12 apples. That is all.", "12 apples"),
    ("the answer is", "The final answer is $\\frac{1}{2}$. I hope it is correct.", "\\frac{1}{2}"),
    ("the answer is", "the answer is 3.5!", "3.5"),
    ("the answer is", "**The answer is:** **12**", "12"),
    ("the answer is", "the answer is\n\n$$\n42\n$$\n", "42"),
    ("the answer is", "The answer is \\boxed{7}.", "7"),
    ("the answer is", "The answer is (B).", "(B)"),
    ("the answer is", "The answer is 3. No: the answer is 4.", "4"),
    ("the answer is", "the answer is $x$ and $y$.", "$x$ and $y$"),
    ("the answer is", "Answer: 12", None),
    ("answer:", "Reasoning.\nAnswer: 12", "12"),
    ("answer:", "**Final Answer:** \\(x = 5\\)", "x = 5"),
    ("answer:", "**Answer**: 12 cm.", "12 cm"),
    ("answer:", "The answer is 12", None),
    ("<answer>", "so <answer> 12 </answer>", "12"),
    ("<answer>", "<answer>3</answer> no, <answer>\\boxed{4}</answer>", "4"),
    ("<answer>", "<answer>12", None),
]


@pytest.mark.parametrize(("rule", "text", "answer"), LABELLED)
def test_each_rule_finds_what_a_reader_would(rule: str, text: str, answer: str | None) -> None:
    found = extract_answer(f"the answer is 99 </think>{text}", thinking_prefilled=True, rules=(rule,))
    assert found.answer == answer
    assert (found.why == "") == (answer is not None)


def test_the_first_rule_that_finds_an_answer_decides() -> None:
    rules = ("boxed", "after_####", "last_number")
    found = [
        extract_answer(text, thinking_prefilled=False, rules=rules).answer
        for text in ("\\boxed{1} #### 2 and 3", "#### 2 and 3\n4", "so 4", "\\boxed{} 5", "none")
    ]
    assert found == ["1", "2 and 3", "4", "5", None]


@pytest.mark.parametrize("rule", RULES)
def test_thoughts_that_never_end_hold_no_answer_whatever_the_rule(rule: str) -> None:
    text = "#### 2\nAnswer: 2, the answer is 2 <answer>2</answer>"
    assert extract_answer(text, thinking_prefilled=True, rules=(rule,)).answer is None
    assert extract_answer(text, thinking_prefilled=False, rules=(rule,)).answer is not None


@pytest.mark.parametrize(
    "piece", ["#### ", "the answer is ", "answer: ", "<answer>", "1,", "1,234", "- ", "$", "\\frac{", "**"]
)
def test_long_texts_of_anything_are_read_in_linear_time(piece: str) -> None:
    """Quadratic time would take longer than the hang guard waits."""
    text = piece * (300_000 // len(piece))
    for rule in RULES.values():
        rule(text)


@pytest.fixture(scope="module")
def grader() -> Iterator[GraderPool]:
    with make_grader(GraderSection(answer=("after_####", "last_number"))) as pool:
        yield pool


@pytest.mark.parametrize(
    ("text", "reference", "outcome"),
    [
        (GSM8K, "72", Outcome.CORRECT),
        ("#### 1,000 dollars.", "1000", Outcome.CORRECT),
        ("so 12 apples", "12", Outcome.CORRECT),
        ("so 50%", "0.5", Outcome.CORRECT),
        ("so 11 apples", "12", Outcome.WRONG),
        ("\\boxed{twelve}", "12", Outcome.NO_ANSWER),
    ],
)
def test_the_grading_processes_use_the_rules_of_the_recipe(
    grader: GraderPool, text: str, reference: str, outcome: Outcome
) -> None:
    first, again = grader.grade([GradeItem(text, [reference], thinking_prefilled=False)] * 2)
    assert first.outcome is again.outcome is outcome, first


def test_every_rule_of_a_recipe_has_code() -> None:
    assert set(RULES) | {"boxed"} == set(ANSWER_RULES)
