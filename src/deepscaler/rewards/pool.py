"""Grading in worker processes with time and memory limits. Usable from any thread; uses no signals."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deepscaler.rewards.process import GradingProcess, Item
from deepscaler.types import Group, Outcome, ScoredGroup, Verdict

GRADER = "deepscaler.rewards.math_reward:grade"
CHUNKS_PER_WORKER = 4
TRUNCATED = Verdict(Outcome.TRUNCATED, 0.0, detail="cut at the token budget before it ended")


class GraderPool:
    """Persistent grading processes behind the Grader protocol; started at first use, replaced when they die.

    decode: token ids of one completion -> the text to grade. `grader` is an import path, changed in tests only.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        wall_s: float,
        memory_mib: int,
        decode: Callable[[Any], str],
        thinking_prefilled: bool,
        grader: str = GRADER,
    ) -> None:
        self._num_workers = num_workers
        self._decode = decode
        self._thinking_prefilled = thinking_prefilled
        self._new_process = lambda: GradingProcess(grader, memory_mib, wall_s)
        # A process is killed when the thread that started it ends, so the threads live as long as the pool.
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="grader")
        self._own = threading.local()
        self._processes: list[GradingProcess] = []
        self._closed = False

    def grade(self, completion: str, references: Sequence[str], *, thinking_prefilled: bool) -> Verdict:
        return self.grade_many([(completion, list(references), thinking_prefilled)])[0]

    def grade_many(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict per item, in order; never raises for what an item holds."""
        if self._closed:
            raise ValueError("the grader pool is closed")
        size = max(1, -(-len(items) // (self._num_workers * CHUNKS_PER_WORKER)))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        return [verdict for verdicts in self._threads.map(self._grade_chunk, chunks) for verdict in verdicts]

    def score(self, groups: Sequence[Group]) -> list[ScoredGroup]:
        """Decode and grade every rollout. One cut at its budget is `truncated`, whatever its text holds."""
        texts = [[self._decode(r.completion_ids) for r in g.rollouts] for g in groups]
        items = [
            (text, list(group.problem.references), self._thinking_prefilled)
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
        """End the processes. Gradings under way are waited for: each has its time limit."""
        self._closed = True
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
        return process.grade(items)
