"""Verdicts by content: equal answers to the same references are decided once."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

from deepscaler.rewards.extract import extract_answer
from deepscaler.types import AnswerKind, GradeItem, Outcome, Verdict

Grade = Callable[[GradeItem], Verdict]
MAX_VERDICTS = 8192  # under 1 KiB each
MAX_CHARACTERS = 50_000  # finding the answer of a longer final part twice would cost more than is gained
_NOT_DECIDED = (Outcome.TIMEOUT, Outcome.GRADER_FAILED)


class VerdictCache:
    """A grading function that remembers, least recently used out first.

    The key is a SHA-256 over everything a verdict depends on: the grader's identity (profile and version), tolerance,
    kind of answer, references and the extracted answer. So the completions of a group that end in the same answer share
    a verdict however their texts differ. What was not decided (a time-out, a failure) is never kept.
    """

    def __init__(self, grade: Grade, identity: str, max_verdicts: int = MAX_VERDICTS) -> None:
        self._grade = grade
        self._identity = identity
        self._max_verdicts = max_verdicts
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verdicts)

    def grade(self, item: GradeItem) -> Verdict:
        """As the wrapped function, with `cached` set where the verdict was known."""
        short = len(item.completion) <= MAX_CHARACTERS
        answer = _answer(item) if short else None
        if answer is None:  # decided by the extraction alone, or too long
            return self._grade(item)
        key = verdict_key(self._identity, answer, item.references, item.tolerance, item.answer_kind)
        known = self._verdicts.get(key)
        if known is not None:
            self._verdicts.move_to_end(key)
            return replace(known, cached=True)
        verdict = self._grade(item)
        if verdict.outcome not in _NOT_DECIDED:
            self._verdicts[key] = verdict
            if len(self._verdicts) > self._max_verdicts:
                self._verdicts.popitem(last=False)
        return verdict


def _answer(item: GradeItem) -> str | None:
    return extract_answer(item.completion, thinking_prefilled=item.thinking_prefilled, rules=item.answer_rules).answer


def verdict_key(
    identity: str, answer: str, references: Sequence[str], tolerance: float | None, answer_kind: AnswerKind = "math"
) -> bytes:
    """SHA-256 of everything a verdict depends on."""
    content = json.dumps([identity, tolerance, list(references), answer, answer_kind])
    return hashlib.sha256(content.encode("ascii")).digest()
