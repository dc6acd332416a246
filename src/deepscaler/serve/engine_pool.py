"""The engines of a server: one in this process, others in processes of their own, over one set of weights."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from deepscaler.serve.engine_process import EngineProcess, RemoteJob
from deepscaler.serve.engine_thread import EngineThread, Job, check_queue
from deepscaler.serve.output_processor import OutputCallback
from deepscaler.serve.requests import CompletionRequest
from deepscaler.types import IntArray, SamplingParams


class PooledJob:
    """A request whose choices may run in several engines. `cancel` may be called from any thread."""

    def __init__(self, jobs: Sequence[Job | RemoteJob]) -> None:
        self._jobs = jobs

    def cancel(self) -> None:
        for job in self._jobs:
            job.cancel()


class EnginePool:
    """Each choice goes to the engine with the fewest open ones.

    Draws are keyed by seed, prompt and sample index, so which engine samples a choice changes it by rounding at most.
    others: an engine process that ended gets no more; when the engine in this process has failed, `check` says so.
    """

    def __init__(self, first: EngineThread, others: Sequence[EngineProcess], max_queued: int) -> None:
        self._first, self.others = first, list(others)
        self._max_queued = max_queued
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        return self._first.capacity

    @property
    def num_open(self) -> int:
        """Completions waiting or running."""
        return sum(engine.num_open for engine in (self._first, *self.others))

    def check(self, count: int = 0) -> None:
        """Raises RequestError when the engine has failed (500) or `count` more completions are too many (429)."""
        self._first.check()
        check_queue(count, self.num_open, self._max_queued)

    def submit(
        self, prompts: Iterable[tuple[IntArray, SamplingParams]], request: CompletionRequest, on_output: OutputCallback
    ) -> PooledJob:
        """As of EngineThread; outputs come from several threads."""
        inputs = list(prompts)
        with self._lock:
            self.check(len(inputs) * request.n)
            shares = self._shares(len(inputs) * request.n)
            return PooledJob(
                [engine.submit(inputs, request, on_output, chosen=share) for engine, share in shares.items() if share]
            )

    def close(self) -> None:
        for engine in (*self.others, self._first):
            engine.close()

    def _shares(self, count: int) -> dict[EngineThread | EngineProcess, list[int]]:
        """Indices of the choices that each engine gets."""
        shares: dict[EngineThread | EngineProcess, list[int]] = {self._first: []}
        shares |= {engine: [] for engine in self.others if not engine.lost}
        for index in range(count):
            engine = min(shares, key=lambda e: e.num_open + len(shares[e]))
            shares[engine].append(index)
        return shares
