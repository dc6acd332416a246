"""Grading in worker processes with limits of time, processor and memory. Usable from any thread; uses no signals.

From asyncio: `await asyncio.to_thread(pool.grade, items)`. A pool belongs to the process that made it, which may
be a daemonic one (multiprocessing, Ray).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.rewards.extract import CLOSE_THINK
from deepscaler.rewards.isolation.process import GradingProcess, Limits
from deepscaler.rewards.registry import REWARDS
from deepscaler.types import GradeItem, Outcome, Verdict

CHUNKS_PER_WORKER = 4
MAX_CHUNK_ITEMS = 64  # what waits behind one that is being killed
TRUNCATED = Verdict(Outcome.TRUNCATED, 0.0, detail="truncated at the token budget before it ended")


class GraderPool:
    """Persistent grading processes behind the Grader protocol; started at first use, replaced when they die.

    profile: a name of REWARDS. answer_rules: where answers are, for all items.
    grader: import path that replaces the profile's, in tests.
    """

    def __init__(
        self,
        *,
        num_workers: int,
        limits: Limits,
        profile: str = "deepscaler",
        answer_rules: tuple[str, ...] = ("boxed",),
        grader: str | None = None,
    ) -> None:
        path = grader or REWARDS[profile].path
        self._num_workers = num_workers
        self.limits = limits
        self._answer_rules = answer_rules
        self._closing = threading.Event()
        self._new_process = lambda: GradingProcess(path, limits, self._closing)
        # A process is killed when the thread that started it ends, so the threads live as long as the pool.
        self._threads = ThreadPoolExecutor(num_workers, thread_name_prefix="grader")
        self._own = threading.local()
        self._processes: list[GradingProcess] = []
        self._owner = os.getpid()

    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        """One verdict per item, in order; never raises for what an item holds. A truncated one is not looked at."""
        if self._closing.is_set():
            raise ValueError("the grader pool is closed")
        if os.getpid() != self._owner:
            raise ValueError("this grader pool was made before a fork and belongs to the parent; make one here")
        whole = [item for item in items if not item.truncated]
        size = min(MAX_CHUNK_ITEMS, max(1, -(-len(whole) // (self._num_workers * CHUNKS_PER_WORKER))))
        chunks = [whole[start : start + size] for start in range(0, len(whole), size)]
        verdicts = (verdict for chunk in self._threads.map(self._grade_chunk, chunks) for verdict in chunk)
        return [TRUNCATED if item.truncated else next(verdicts) for item in items]

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

    def _grade_chunk(self, items: Sequence[GradeItem]) -> list[Verdict]:
        process = getattr(self._own, "process", None)
        if process is None:
            process = self._own.process = self._new_process()
            self._processes.append(process)
        return process.grade(
            [
                replace(item, completion=without_thoughts(item.completion), answer_rules=self._answer_rules)
                for item in items
            ]
        )


def make_grader(section: GraderSection) -> GraderPool:
    """The grader that a recipe's [grader] describes."""
    limits = Limits(wall_s=section.wall_s, cpu_s=section.cpu_s, memory_mib=section.memory_mib)
    return GraderPool(
        num_workers=section.workers, limits=limits, profile=section.profile, answer_rules=section.answer_rules
    )


def without_thoughts(completion: str) -> str:
    """What of a completion can decide a verdict: `</think>` and the text after the last one.

    Long chains of thought then cost one search here instead of being copied between processes.
    """
    _, tag, final = completion.rpartition(CLOSE_THINK)
    return tag + final
