"""Grading in worker processes with limits of time, processor and memory. Usable from any thread; uses no signals.

From asyncio: `await asyncio.to_thread(pool.grade_many, items)`. A pool belongs to the process that made it, which may
be a daemonic one (multiprocessing, Ray).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deepscaler.rewards.extract import CLOSE_THINK
from deepscaler.rewards.isolation.process import GradingProcess, Item, Limits
from deepscaler.types import Group, Outcome, ScoredGroup, Verdict

PROFILES = {"deepscaler": "deepscaler.rewards.math_reward:grade", "string": "deepscaler.rewards.string_match:grade"}
CHUNKS_PER_WORKER = 4
MAX_CHUNK_ITEMS = 64  # what waits behind one that is being killed
TRUNCATED = Verdict(Outcome.TRUNCATED, 0.0, detail="cut at the token budget before it ended")


class GraderPool:
    """Persistent grading processes behind the Grader protocol; started at first use, replaced when they die.

    profile: a name of PROFILES. decode: token ids of one completion -> the text to grade, for `score` only.
    grader: import path that replaces the profile's, in tests.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        limits: Limits,
        profile: str = "deepscaler",
        decode: Callable[[Any], str] | None = None,
        thinking_prefilled: bool = False,
        grader: str | None = None,
    ) -> None:
        path = grader or PROFILES[profile]
        self._num_workers = num_workers
        self._decode = decode
        self._thinking_prefilled = thinking_prefilled
        self._closing = threading.Event()
        self._new_process = lambda: GradingProcess(path, limits, self._closing)
        # A process is killed when the thread that started it ends, so the threads live as long as the pool.
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="grader")
        self._own = threading.local()
        self._processes: list[GradingProcess] = []
        self._owner = os.getpid()

    def grade(
        self,
        completion: str,
        references: Sequence[str],
        *,
        thinking_prefilled: bool,
        tolerance: float | None = None,
    ) -> Verdict:
        return self.grade_many([Item(completion, references, thinking_prefilled, tolerance)])[0]

    def grade_many(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, in order; never raises for what an item holds."""
        if self._closing.is_set():
            raise ValueError("the grader pool is closed")
        if os.getpid() != self._owner:
            raise ValueError("this grader pool was made before a fork and belongs to the parent; make one here")
        size = min(MAX_CHUNK_ITEMS, max(1, -(-len(items) // (self._num_workers * CHUNKS_PER_WORKER))))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        return [verdict for verdicts in self._threads.map(self._grade_chunk, chunks) for verdict in verdicts]

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Decode and grade every rollout. One cut at its budget is `truncated`, whatever its text holds."""
        assert self._decode is not None, "a pool that scores rollouts needs `decode`"
        texts = [[self._decode(r.completion_ids) for r in g.rollouts] for g in groups]
        items = [
            Item(text, group.problem.references, self._thinking_prefilled, group.problem.tolerance)
            for group, row in zip(groups, texts, strict=True)
            for rollout, text in zip(group.rollouts, row, strict=True)
            if not rollout.truncated
        ]
        verdicts = iter(self.grade_many(items))
        return [
            ScoredGroup(group, tuple(row), tuple(TRUNCATED if r.truncated else next(verdicts) for r in group.rollouts))
            for group, row in zip(groups, texts, strict=True)
        ]

    def close(self) -> None:
        """End the processes at once; a grading under way in another thread raises ValueError."""
        self._closing.set()
        if os.getpid() != self._owner:
            return
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            process.kill()

    def __enter__(self) -> GraderPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _grade_chunk(self, items: Sequence[Item]) -> list[Verdict]:
        process = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = self._new_process()
            self._processes.append(process)
        return process.grade([item._replace(completion=without_thoughts(item.completion)) for item in items])


def without_thoughts(completion: str) -> str:
    """What of a completion can decide a verdict: `</think>` and the text after the last one.

    Long chains of thought then cost one search here instead of being copied between processes.
    """
    _, tag, final = completion.rpartition(CLOSE_THINK)
    return tag + final
