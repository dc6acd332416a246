"""The thread that owns the engine: requests join and leave its batch at any step.

A fault ends the completion it belongs to. When a step fails without saying whose fault it is, those that joined with
it (else all that were decoded) go on one by one, and the one that fails alone is the one. The others keep their tokens:
they are taken up again where they stood, which costs a pass over what they have.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from deepscaler.engines.torch.decode_state import NonFiniteLogitsError
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import Scheduler
from deepscaler.engines.torch.scheduler import Sequence as Decoding
from deepscaler.observability.counts import counted
from deepscaler.serve.choices import Choice, Deliver, told
from deepscaler.serve.requests import Asked, RequestError
from deepscaler.serve.text import TextStream
from deepscaler.types import FinishReason, IntArray, Request, RunError, SamplingParams

IDLE_S = 0.5
MAX_FAULTS = 16  # steps that fail one after another: then it is looked whether the device works at all
MAX_TRIALS = 3  # of one completion that is suspected again and again

Decode = Callable[[Sequence[int], bool], str]  # token ids, whether to skip special tokens


class Job:
    """A submitted request. `cancel` from any thread."""

    def __init__(self, choices: list[Choice]) -> None:
        self.choices = choices

    def cancel(self) -> None:
        for choice in self.choices:
            choice.decoding.cancelled = True


class EngineThread:
    """capacity: tokens of prompt and completion. max_queued: sequences that may wait or be under way.

    stop: texts that end every completion, beside those of its request.
    """

    def __init__(
        self,
        engine: TorchEngine,
        *,
        decode: Decode,
        stop_ids: frozenset[int],
        capacity: int,
        max_queued: int,
        stop: Sequence[str] = (),
    ) -> None:
        self._stop = tuple(stop)
        self._engine, self._decode, self._stop_ids = engine, decode, stop_ids
        self.capacity = capacity
        self._max_queued = max_queued
        self._inbox: queue.Queue[Job] = queue.Queue()
        self._choices: dict[Decoding, Choice] = {}
        self._only_scored: deque[Choice] = deque()  # nothing is to be sampled for them
        self._suspects: deque[Choice] = deque()  # not in the batch; each is tried alone
        self._faults = 0  # since the last step that succeeded
        self._lock = threading.Lock()
        self._num_open = 0
        self._closing = threading.Event()
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, prompts: Iterable[tuple[IntArray, SamplingParams]], asked: Asked, deliver: Deliver) -> Job:
        """`deliver` gets every piece, or an exception, in the engine's thread. Raises RequestError when full (429).

        The choices of the first prompt come first.
        """
        self.check()
        choices: list[Choice] = []
        stops = (*asked.stop, *self._stop)
        for prompt_ids, params in prompts:
            request = Request("serve", prompt_ids, asked.n)
            for sample in range(asked.n):
                text = TextStream(lambda ids: self._decode(ids, asked.skip_special_tokens), stops)
                decoding, watched = Decoding(request, sample, params), asked.stream or bool(stops)
                wanted = watched, asked.logprobs, asked.echo
                choices.append(Choice(len(choices), decoding, text, *wanted, deliver))
        with self._lock:
            self._check_room(len(choices))
            self._num_open += len(choices)
        job = Job(choices)
        self._inbox.put(job)
        self.check()  # a thread that has ended meanwhile looks into no inbox
        return job

    def check(self, count: int = 0) -> None:
        """Raises RequestError when the engine has failed (500) or `count` more completions are too many (429)."""
        if self._broken is not None:
            raise RequestError(f"the engine failed ({self._broken}); restart the server", status=500)
        self._check_room(count)

    def _check_room(self, count: int) -> None:
        if self._num_open + count > self._max_queued:
            raise RequestError(
                f"{counted(count, 'completion')} asked for, {self._num_open} are waiting or under way, and the "
                "server takes "
                f"{self._max_queued}; try again later",
                status=429,
                code="queue_full",
            )

    @property
    def num_open(self) -> int:
        """Completions waiting or under way."""
        return self._num_open

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        try:
            self._decode_all()
        except Exception as error:  # nobody may wait for a thread that has ended; later requests are told why
            self._broken = error
            self._fail_all(error)
            raise

    def _decode_all(self) -> None:
        scheduler = self._engine.open_scheduler(self.capacity)
        while not self._closing.is_set():
            self._take(scheduler)
            if self._only_scored:
                self._finish(self._only_scored.popleft(), FinishReason.LENGTH)
            if not scheduler.has_unfinished:
                continue
            before = scheduler.running
            try:
                finished = scheduler.step()
            except Exception as error:  # whatever a request brings up ends that request, and no other
                scheduler = self._recover(scheduler, before, error)
                continue
            self._faults = 0
            for decoding in scheduler.running:
                self._advance(self._choices[decoding])
            for decoding in finished:
                self._finish(self._choices.pop(decoding), scheduler.finish_reason(decoding))
        self._fail_all(RunError("the server is shutting down"))

    def _take(self, scheduler: Scheduler) -> None:
        """Let new requests join; wait for one when there is nothing else to do. Suspects first, one at a time."""
        if self._suspects:
            if not scheduler.waiting:
                scheduler.add(self._suspects.popleft().decoding)
            return
        wait = not scheduler.has_unfinished and not self._only_scored
        while True:
            try:
                job = self._inbox.get(timeout=IDLE_S) if wait else self._inbox.get_nowait()
            except queue.Empty:
                return
            wait = False
            for choice in job.choices:
                self._join(choice, scheduler)

    def _join(self, choice: Choice, scheduler: Scheduler) -> None:
        if not choice.decoding.params.max_completion_tokens:
            self._only_scored.append(choice)
        elif scheduler.fits(choice.decoding):
            self._choices[choice.decoding] = choice
            scheduler.add(choice.decoding)
        else:
            self._fail(choice, RequestError(
                f"prompt and completion of {counted(choice.decoding.max_tokens, 'token')} do not fit into the "
                "server's cache; "
                "lower max_tokens, or start the server with a smaller --context",
                param="max_tokens",
                code="context_length_exceeded",
            ))  # fmt: skip

    def _advance(self, choice: Choice) -> None:
        if not choice.watched or choice.decoding.cancelled:
            return
        try:
            choice.advance()
        except Exception as error:  # of its own text only
            choice.decoding.cancelled, choice.failed = True, True
            choice.deliver(told(error))

    def _finish(self, choice: Choice, reason: FinishReason | None) -> None:
        try:
            piece = choice.finish(reason, self._stop_ids, self._engine)
        except Exception as error:  # of its own text or scores only
            self._fail(choice, error)
            return
        self._release(1)
        if not choice.failed:
            choice.deliver(piece)

    def _recover(self, scheduler: Scheduler, before: Sequence[Decoding], error: Exception) -> Scheduler:
        """A new batch for all whose fault it was not. Raises an error when nothing works any more."""
        self._faults += 1
        if self._faults > MAX_FAULTS:
            self._engine.score(np.zeros(2, np.int32), np.ones(1, np.float32), 0)  # raises where nothing works any more
            self._faults = 0
        guilty, suspects = self._whose_fault(scheduler, before, error)
        self._engine.reset()
        new = self._engine.open_scheduler(self.capacity)
        for decoding in guilty:
            self._fail(self._choices.pop(decoding), error)
        self._suspects.extend(self._choices[d] for d in suspects)
        apart = {choice.decoding for choice in self._suspects}
        for decoding in list(self._choices):
            if decoding in apart:
                continue
            if new.finish_reason(decoding) is None:
                new.add(decoding)
            else:
                self._finish(self._choices.pop(decoding), new.finish_reason(decoding))
        return new

    def _whose_fault(
        self, scheduler: Scheduler, before: Sequence[Decoding], error: Exception
    ) -> tuple[list[Decoding], list[Decoding]]:
        """(those whose fault the error is, those who may have to do with it)."""
        if isinstance(error, NonFiniteLogitsError) and not any(len(d.token_array) for d in error.sequences):
            return error.sequences, []  # by their prompts alone; what is decoded together may spoil each other
        if isinstance(error, NonFiniteLogitsError):
            suspects = error.sequences
        else:
            apart = {*scheduler.waiting, *before, *(choice.decoding for choice in self._suspects)}
            suspects = [d for d in self._choices if d not in apart] or list(before)
        if len(suspects) == 1:
            return [*suspects, *self._like(suspects[0])], []
        for decoding in suspects:
            self._choices[decoding].trials += 1
        guilty = [d for d in suspects if self._choices[d].trials > MAX_TRIALS]
        return guilty, [d for d in suspects if d not in guilty]

    def _like(self, guilty: Decoding) -> list[Decoding]:
        """Take from the suspects those that are nothing but the same prompt."""
        same = [c for c in self._suspects if c.decoding.request is guilty.request and not len(c.decoding.token_array)]
        if len(guilty.token_array):
            return []
        self._suspects = deque(choice for choice in self._suspects if choice not in same)
        return [choice.decoding for choice in same]

    def _fail(self, choice: Choice, error: Exception) -> None:
        self._release(1)
        if not choice.failed:
            choice.failed = True
            choice.deliver(told(error))

    def _fail_all(self, error: Exception) -> None:
        while not self._inbox.empty():
            job = self._inbox.get_nowait()
            self._choices.update((choice.decoding, choice) for choice in job.choices)
        choices = [*self._choices.values(), *self._only_scored]
        self._choices.clear()
        self._only_scored.clear()
        for choice in choices:
            self._fail(choice, error)

    def _release(self, count: int) -> None:
        with self._lock:
            self._num_open -= count
