"""The cache of verdicts changes how often the grader runs, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import pytest

from deepscaler.rewards.isolation.cache import VerdictCache, verdict_key
from deepscaler.rewards.isolation.pool import without_thoughts
from deepscaler.rewards.profiles import deepscaler, string
from deepscaler.types import GradeItem, Outcome, Verdict
from shared_data import shared


@dataclass
class Counting:
    """A grader that counts its calls and answers what it is told."""

    outcome: Outcome = Outcome.CORRECT
    calls: list[str] = field(default_factory=list)

    def grade(self, item: GradeItem) -> Verdict:
        self.calls.append(item.completion)
        return Verdict(self.outcome, float(self.outcome is Outcome.CORRECT), "7", f"call {len(self.calls)}")


def box(answer: str, words: str = "") -> str:
    return f"thoughts</think>{words} \\boxed{{{answer}}}"


def test_equal_answers_of_a_group_are_decided_once_however_their_texts_differ() -> None:
    counting = Counting()
    cache = VerdictCache(counting.grade, "v1")
    verdicts = [cache.grade(GradeItem(box("7", f"so {i}"), ["7"], thinking_prefilled=True)) for i in range(16)]
    assert len(counting.calls) == 1
    assert [v.cached for v in verdicts] == [False] + [True] * 15
    assert {v.detail for v in verdicts} == {"call 1"}


def test_everything_a_verdict_depends_on_is_in_the_key() -> None:
    counting = Counting()
    cache, keys = VerdictCache(counting.grade, "v1"), set()
    for answer, references, tolerance in product(("7", "8"), (["7"], ["7", "8"], ["78"]), (None, 0.0, 0.1)):
        assert not cache.grade(GradeItem(box(answer), references, True, tolerance=tolerance)).cached
        keys |= {verdict_key(version, answer, references, tolerance) for version in ("v1", "v2")}
    assert len(counting.calls) == len(cache) == 18
    assert len(keys) == 36  # a store that outlives a change of version would be asked in vain


@pytest.mark.parametrize("outcome", [Outcome.TIMEOUT, Outcome.GRADER_FAILED])
def test_what_was_not_decided_is_never_kept(outcome: Outcome) -> None:
    counting = Counting(outcome)
    cache = VerdictCache(counting.grade, "v1")
    for _ in range(3):
        assert not cache.grade(GradeItem(box("7"), ["7"], thinking_prefilled=True)).cached
    assert len(counting.calls) == 3 and len(cache) == 0


def test_what_a_grader_raises_is_passed_on_and_not_kept() -> None:
    def failing(*_: object, **__: object) -> Verdict:
        raise MemoryError

    cache = VerdictCache(failing, "v1")
    for _ in range(2):
        with pytest.raises(MemoryError):
            cache.grade(GradeItem(box("7"), ["7"], thinking_prefilled=True))
    assert len(cache) == 0


def test_the_least_recently_used_goes_first_and_the_size_is_bounded() -> None:
    counting = Counting()
    cache = VerdictCache(counting.grade, "v1", max_verdicts=3)

    def cached(answer: int) -> bool:
        return cache.grade(GradeItem(box(str(answer)), ["7"], thinking_prefilled=True)).cached

    assert [cached(a) for a in (1, 2, 3, 1, 4)] == [False, False, False, True, False]
    assert cached(1) and not cached(2)
    assert len(cache) == 3


COMPLETIONS = (
    box("7"),
    box(r"\frac{1}{2}"),
    box(""),
    "no tag \\boxed{7}",
    "<think>never closed \\boxed{7}",
    "a</think>b</think>\\boxed{7}",
    "a</think><think>\\boxed{7}",
    "\\boxed{1}</think>nothing",
    "</think>\\boxed{\ud800}",
    "</think>\\boxed{a\0b}",
    "</think>\\boxed{7",
    "",
)


@pytest.mark.parametrize("grade", [deepscaler.grade, string.grade])
@pytest.mark.parametrize("prefilled", [True, False])
def test_neither_the_cache_nor_dropping_the_thoughts_changes_a_verdict(grade, prefilled: bool) -> None:
    cache = VerdictCache(grade, "v")
    for _ in range(2):  # the second time from the cache
        for completion in COMPLETIONS:
            for references in (["7"], [r"\frac{1}{2}", "0.5"], [""]):
                plain = grade(GradeItem(completion, references, thinking_prefilled=prefilled))
                assert cache.grade(GradeItem(completion, references, thinking_prefilled=prefilled)) == plain
                assert grade(GradeItem(without_thoughts(completion), references, thinking_prefilled=prefilled)) == plain


def test_a_verdict_does_not_depend_on_what_was_graded_before() -> None:
    """The labelled cases forwards, backwards and in a cache that forgets: caches at every level change nothing."""
    cases = [json.loads(line) for line in shared("grading", "dev.jsonl").read_text().splitlines()]
    items = [
        (c["response"], [str(g) for g in (c["gold"] if isinstance(c["gold"], list) else [c["gold"]])]) for c in cases
    ]

    def verdicts(order: Sequence[int], size: int) -> list[Verdict]:
        cache = VerdictCache(deepscaler.grade, "v", max_verdicts=size)
        found = {i: cache.grade(GradeItem(*items[i], thinking_prefilled=False)) for i in order}
        return [found[i] for i in range(len(items))]

    forwards = verdicts(range(len(items)), 10_000)
    assert verdicts(range(len(items) - 1, -1, -1), 10_000) == forwards
    assert verdicts([*range(0, len(items), 2), *range(1, len(items), 2)], 7) == forwards
