"""Grading beside generation: completions go in as they arrive, verdicts come out when they are there."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator

from deepscaler.evaluation.completions import Completion, Key
from deepscaler.protocols import Grader
from deepscaler.rewards.scoring import item_of
from deepscaler.types import FinishReason, GradeItem, Problem, RunError, Verdict

BATCH = 64  # completions handed to the grader's processes at once
MOST_WAITING = 1024  # then generation waits: texts of many megabytes must not pile up
WAIT_S = 600.0  # longest wait for a batch, whose completions each have a limit of seconds


class GradingPipeline:
    """A thread that feeds the grader. `submit` and `ready` belong to one other thread."""

    def __init__(self, grader: Grader, *, thinking_prefilled: bool) -> None:
        self._grader = grader
        self._prefilled = thinking_prefilled
        self._waiting: queue.Queue[tuple[Key, GradeItem] | None] = queue.Queue(maxsize=MOST_WAITING)
        self._verdicts: queue.Queue[tuple[Key, Verdict] | Exception] = queue.Queue()
        self._under_way = 0
        self._thread = threading.Thread(target=self._work, name="grading", daemon=True)
        self._thread.start()

    def submit(self, completion: Completion, problem: Problem) -> None:
        """A completion that reached its budget is `truncated`, whatever its text holds."""
        self._under_way += 1
        truncated = completion.finish_reason is FinishReason.LENGTH
        item = item_of(problem, completion.text, truncated, thinking_prefilled=self._prefilled)
        self._waiting.put((completion.key, item), timeout=WAIT_S)

    def ready(self) -> Iterator[tuple[Key, Verdict]]:
        """Verdicts that are there now. Raises what went wrong in the grader."""
        while not self._verdicts.empty():
            yield self._next(0.0)

    def finish(self) -> Iterator[tuple[Key, Verdict]]:
        """All verdicts still to come. Raises RunError when the grader is silent past the limit."""
        while self._under_way:
            yield self._next(WAIT_S)

    def finish_some(self, limit_s: float) -> Iterator[tuple[Key, Verdict]]:
        """Verdicts that come within so many seconds: what an interrupted evaluation still wants to know."""
        deadline = time.monotonic() + limit_s
        while self._under_way:
            try:
                item = self._verdicts.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                return
            if isinstance(item, Exception):
                return
            self._under_way -= 1
            yield item

    def close(self) -> None:
        """End the thread; a batch under way is waited for."""
        while True:
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                break
        self._waiting.put(None)
        self._thread.join(timeout=WAIT_S)

    def _next(self, seconds: float) -> tuple[Key, Verdict]:
        try:
            item = self._verdicts.get(timeout=seconds) if seconds else self._verdicts.get_nowait()
        except queue.Empty as error:
            raise RunError(
                f"the grader gave no verdict for {WAIT_S:.0f} s; completions are stored, run the same command again"
            ) from error
        if isinstance(item, Exception):
            raise item
        self._under_way -= 1
        return item

    def _work(self) -> None:
        ended = False
        while not ended:
            batch = [self._waiting.get()]
            while len(batch) < BATCH and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            ended = None in batch
            pairs = [pair for pair in batch if pair is not None]
            try:
                verdicts = self._grader.grade([item for _, item in pairs])
            except (RunError, ValueError, RuntimeError) as error:  # raised where the verdicts are read
                self._verdicts.put(error)
                return
            for (key, _), verdict in zip(pairs, verdicts, strict=True):
                self._verdicts.put((key, verdict))
