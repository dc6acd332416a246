"""1 for a completion of the wanted form, else 0: one closed thinking part, and an answer.

The format reward of DeepSeek-R1-Zero, arXiv:2501.12948 §2.2.2.
"""

from __future__ import annotations

from collections.abc import Sequence

OPEN, CLOSE = "<think>", "</think>"
REQUIREMENTS = ("think", "answer")


def reward(
    completion: str, thinking: str, response: str | None, answer: str | None, *, require: Sequence[str] = REQUIREMENTS
) -> float:
    """require: `think` = the completion begins inside or with `<think>`, closes it once, has thoughts in it and text
    after it; `answer` = the grader finds an answer (grader.answer).
    """
    thinks = (
        completion.count(CLOSE) == 1
        and completion.strip().rfind(OPEN) <= 0
        and bool(thinking.strip())
        and bool((response or "").strip())
    )
    return float(("think" not in require or thinks) and ("answer" not in require or answer is not None))


def check(*, require: Sequence[str] = REQUIREMENTS) -> None:
    if isinstance(require, str) or not require or set(require) - set(REQUIREMENTS):
        raise ValueError(f"require = {require!r}: expected an array of {', '.join(REQUIREMENTS)}")
