"""A thread that samples while the learner updates, and takes turns over the sampler with the loop's thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from deepscaler.loop.publishing import generate_on_each
from deepscaler.observability import liveness
from deepscaler.protocols import InterruptibleSampler, PublishedWeights, Sampler
from deepscaler.types import Request, Rollout, RunError, SamplingParams, WeightsInfo

POLL_S = 0.2
CLOSE_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Round:
    """What the sampler gets in one generation."""

    requests: Sequence[Request]
    params: SamplingParams


class SamplingThread:
    """Samples round after round, as long as there is something to sample.

    changed: the lock of everything that both threads touch; notify it after a change. next_round: called with the lock
    held; None while there is nothing to sample. deliver: called for every rollout, in this thread. at_boundary: when
    the loop's thread may have its turn; None where a turn interrupts the round under way instead. limit_s: longest
    wait without any progress of this process or its workers (`liveness`).
    """

    def __init__(
        self,
        sampler: Sampler,
        changed: threading.Condition,
        next_round: Callable[[], Round | None],
        deliver: Callable[[Rollout], None],
        at_boundary: Callable[[], bool] | None,
        limit_s: float,
    ) -> None:
        self._sampler, self._changed = sampler, changed
        self._next_round, self._deliver = next_round, deliver
        self._at_boundary, self._limit_s = at_boundary, limit_s
        self._turn_wanted = self._is_sampling = self._is_closing = False
        self._error: Exception | None = None
        self._busy_s = 0.0
        self._thread = threading.Thread(target=self._run, name="sampling", daemon=True)
        self._thread.start()

    @contextmanager
    def turn(self, purpose: str) -> Iterator[None]:
        """The sampler is the caller's alone. purpose: for messages. Raises what ended the thread."""
        waited_for = f"the sampler's turn to {purpose}"
        if self._at_boundary is not None:
            self.wait(self._at_boundary, waited_for)
        with self._changed:
            self._turn_wanted = True
        try:
            self.wait(lambda: not self._is_sampling, waited_for, self._interrupt)
            yield
        finally:
            with self._changed:
                self._turn_wanted = False
                self._changed.notify_all()

    def wait(self, reached: Callable[[], bool], waited_for: str, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Wait until `reached`, which is asked with the lock held, as `meanwhile` is called.

        Raises what ended the thread, and RunError after `limit_s` without any progress.
        """
        with self._changed:
            liveness.beat()
            while True:
                if self._error is not None:
                    raise self._error
                meanwhile()
                if reached():
                    return
                if liveness.idle_s() > self._limit_s:
                    raise RunError(
                        f"sampling ahead: waited for {waited_for}, and nothing went on for {self._limit_s:.0f} s, "
                        "twice cluster.stall_s. Run the same command again to continue from the newest checkpoint"
                    )
                self._changed.wait(POLL_S)

    def fail(self, error: Exception) -> None:
        """Let the loop's thread end with this error."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def take_busy_seconds(self) -> float:
        """Seconds spent in rounds that ended since the last call."""
        with self._changed:
            taken, self._busy_s = self._busy_s, 0.0
        return taken

    def close(self) -> None:
        """End the thread. One that is stuck in the sampler ends with the sampler's workers."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
            self._interrupt()
        self._thread.join(CLOSE_LIMIT_S)

    def _interrupt(self) -> None:
        if self._is_sampling and isinstance(self._sampler, InterruptibleSampler):
            self._sampler.interrupt()

    def _run(self) -> None:
        try:
            while (found := self._begin_round()) is not None:
                self._sample(found)
        except Exception as error:  # raised in the loop's thread, at its next wait
            self.fail(error)
        finally:
            self._end_round()

    def _begin_round(self) -> Round | None:
        """The next round, as soon as there is one and nobody else wants the sampler; None at the end."""
        with self._changed:
            while not self._is_closing:
                if not self._turn_wanted and (found := self._next_round()) is not None:
                    self._is_sampling = True
                    return found
                self._changed.wait(POLL_S)
        return None

    def _sample(self, found: Round) -> None:
        start = time.monotonic()
        rollouts = self._sampler.generate(found.requests, found.params)
        for rollout in rollouts:
            liveness.beat()
            self._deliver(rollout)
            if self._is_closing:
                break
        del rollouts  # ends what is left of it
        with self._changed:
            self._busy_s += time.monotonic() - start
        self._end_round()

    def _end_round(self) -> None:
        with self._changed:
            self._is_sampling = False
            self._changed.notify_all()


class SamplerInTurn:
    """The sampler as the loop and its evaluations use it: each use waits for its turn."""

    def __init__(self, sampler: Sampler, thread: SamplingThread) -> None:
        self._sampler, self._thread = sampler, thread

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        with self._thread.turn("evaluate"):
            yield from self._sampler.generate(requests, params)

    def generate_on_each(self, request: Request, params: SamplingParams) -> list[tuple[str, Rollout]]:
        with self._thread.turn("sample the canary"):
            return generate_on_each(self._sampler, request, params)

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        with self._thread.turn(f"load version {weights.version}"):
            return self._sampler.load_weights(weights)

    def release_memory(self) -> None:
        """Nothing: sampling goes on while the learner updates."""

    def close(self) -> None:
        self._sampler.close()
