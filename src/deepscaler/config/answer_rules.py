"""Where a completion's answer is: the rules of `grader.answer`, of which `rewards/answer_rules.py` holds the code."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated

from pydantic import BeforeValidator
from pydantic_core import PydanticCustomError

ANSWER_RULES = ("boxed", "last_number", "after_####", "the answer is", "answer:", "<answer>")


def _check(given: object) -> object:
    names = given if isinstance(given, list | tuple) else [given]
    expected = ", ".join(f'"{rule}"' for rule in ANSWER_RULES)
    for name in names:
        if name not in ANSWER_RULES:
            near = get_close_matches(str(name), ANSWER_RULES, n=1, cutoff=0.6)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise PydanticCustomError(
                "answer_rule",
                "Input should be one of {expected}, or an array of these",
                {"expected": expected, "hint": hint},
            )
    if not names or len(set(names)) < len(names):
        raise PydanticCustomError("answer_rule", "Input should be at least one rule, each once")
    return tuple(given) if isinstance(given, list) else given  # an array of TOML


AnswerRules = Annotated[str | tuple[str, ...], BeforeValidator(_check)]


def in_order(answer: str | Sequence[str]) -> tuple[str, ...]:
    """The rules in the order in which they are tried."""
    return (answer,) if isinstance(answer, str) else tuple(answer)
