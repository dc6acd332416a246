"""The thread that owns the engine: requests join and leave its scheduler at any step.

An error ends the completion that caused it. When a step fails without naming the sequence, the sequences that joined in
that step (if none did, all running ones) are retried one by one, and one that fails alone is the cause. The others keep
their tokens and continue after a prefill of prompt and tokens.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np

from deepscaler.engines.torch.decode_state import NonFiniteLogitsError
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import OpenScheduler
from deepscaler.engines.torch.scheduler import Sequence as DecodingSequence
from deepscaler.observability.counts import counted
from deepscaler.serve.detokenizer import Detokenizer
from deepscaler.serve.output_processor import Choice, OutputCallback, client_error
from deepscaler.serve.requests import CompletionRequest, RequestError
from deepscaler.types import FinishReason, IntArray, Request, RunError, SamplingParams

IDLE_S = 0.5
MAX_FAULTS = 16  # consecutive failed steps before the device itself is tested
MAX_RETRIES = 3  # of one suspected completion

Decode = Callable[[Sequence[int], bool], str]  # token ids, whether to skip special tokens


def check_queue(count: int, num_open: int, max_queued: int) -> None:
    """Raises RequestError (429) when `count` more completions are too many."""
    if num_open + count > max_queued:
        raise RequestError(
            f"{counted(count, 'completion')} requested, {num_open} waiting or running, and the server accepts "
            f"{max_queued}; try again later",
            status=429,
            code="queue_full",
        )


class Job:
    """A submitted request. `cancel` may be called from any thread."""

    def __init__(self, choices: list[Choice]) -> None:
        self.choices = choices

    def cancel(self) -> None:
        for choice in self.choices:
            choice.sequence.cancelled = True


class EngineThread:
    """capacity: maximum tokens of prompt and completion. max_queued: maximum sequences waiting or running.

    stop: stop strings of every completion, in addition to those of its request.
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
        self._choices: dict[DecodingSequence, Choice] = {}
        self._score_only: deque[Choice] = deque()  # requests without new tokens
        self._suspects: deque[Choice] = deque()  # not in the scheduler; each is retried alone
        self._faults = 0  # since the last step that succeeded
        self._lock = threading.Lock()
        self._num_open = 0
        self._closing = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompts: Iterable[tuple[IntArray, SamplingParams]],
        request: CompletionRequest,
        on_output: OutputCallback,
        *,
        chosen: Collection[int] | None = None,
    ) -> Job:
        """Queue the completions of a request. Raises RequestError (429) when the queue is full.

        The choices of the first prompt come first. `on_output` receives every output or an error, in this thread.
        chosen: the indices of the choices that this engine makes, where others make the rest.
        """
        self.check()
        choices: list[Choice] = []
        index = -1
        stops = (*request.stop, *self._stop)
        for prompt_ids, params in prompts:
            engine_request = Request("serve", prompt_ids, request.n)
            for sample in range(request.n):
                index += 1
                if chosen is not None and index not in chosen:
                    continue
                detokenizer = Detokenizer(lambda ids: self._decode(ids, request.skip_special_tokens), stops)
                sequence = DecodingSequence(engine_request, sample, params)
                choices.append(
                    Choice(
                        index=index,
                        sequence=sequence,
                        detokenizer=detokenizer,
                        incremental=request.stream or bool(stops),
                        num_logprobs=request.logprobs,
                        echo=request.echo,
                        on_output=on_output,
                    )
                )
        with self._lock:
            self._check_queue(len(choices))
            self._num_open += len(choices)
        job = Job(choices)
        self._inbox.put(job)
        self.check()  # a thread that has ended in the meantime does not read its inbox
        return job

    def check(self, count: int = 0) -> None:
        """Raises RequestError when the engine has failed (500) or `count` more completions are too many (429)."""
        if self._failure is not None:
            raise RequestError(f"the engine failed ({self._failure}); restart the server", status=500)
        self._check_queue(count)

    def _check_queue(self, count: int) -> None:
        check_queue(count, self._num_open, self._max_queued)

    @property
    def num_open(self) -> int:
        """Completions waiting or running."""
        return self._num_open

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=30)

    def _run(self) -> None:
        try:
            self._decode_all()
        except Exception as error:  # waiting clients and later requests get the error
            self._failure = error
            self._fail_all(error)
            raise

    def _decode_all(self) -> None:
        scheduler = self._engine.open_scheduler(self.capacity)
        while not self._closing.is_set():
            self._add_jobs(scheduler)
            if self._score_only:
                self._finish(self._score_only.popleft(), FinishReason.LENGTH)
            if not scheduler.has_unfinished:
                continue
            before = scheduler.running
            try:
                finished = scheduler.step()
            except Exception as error:  # an error ends the request that caused it, and no other
                scheduler = self._recover(scheduler, before, error)
                continue
            self._faults = 0
            for sequence in scheduler.running:
                self._advance(self._choices[sequence])
            for sequence in finished:
                self._finish(self._choices.pop(sequence), scheduler.finish_reason(sequence))
        self._fail_all(RunError("the server is shutting down"))

    def _add_jobs(self, scheduler: OpenScheduler) -> None:
        """Add new requests; block for one when idle. Suspects first, one at a time."""
        if self._suspects:
            if not scheduler.waiting:
                scheduler.add(self._suspects.popleft().sequence)
            return
        wait = not scheduler.has_unfinished and not self._score_only
        while True:
            try:
                job = self._inbox.get(timeout=IDLE_S) if wait else self._inbox.get_nowait()
            except queue.Empty:
                return
            wait = False
            for choice in job.choices:
                self._add(choice, scheduler)

    def _add(self, choice: Choice, scheduler: OpenScheduler) -> None:
        if not choice.sequence.params.max_completion_tokens:
            self._score_only.append(choice)
        elif scheduler.fits(choice.sequence):
            self._choices[choice.sequence] = choice
            scheduler.add(choice.sequence)
        else:
            self._fail(choice, RequestError(
                f"prompt and completion of {counted(choice.sequence.max_tokens, 'token')} do not fit into the "
                "server's cache; lower max_tokens, or start the server with a smaller --context",
                param="max_tokens",
                code="context_length_exceeded",
            ))  # fmt: skip

    def _advance(self, choice: Choice) -> None:
        if not choice.incremental or choice.sequence.cancelled:
            return
        try:
            choice.advance()
        except Exception as error:  # affects this completion only
            choice.sequence.cancelled, choice.failed = True, True
            choice.on_output(client_error(error))

    def _finish(self, choice: Choice, reason: FinishReason | None) -> None:
        try:
            output = choice.finish(reason, self._stop_ids, self._engine)
        except Exception as error:  # affects this completion only
            self._fail(choice, error)
            return
        self._release(1)
        if not choice.failed:
            choice.on_output(output)

    def _recover(self, scheduler: OpenScheduler, before: Sequence[DecodingSequence], error: Exception) -> OpenScheduler:
        """A new scheduler with all sequences that did not cause the error. Raises when the device has failed."""
        self._faults += 1
        if self._faults > MAX_FAULTS:
            self._engine.score(np.zeros(2, np.int32), np.ones(1, np.float32), 0)  # raises when the device has failed
            self._faults = 0
        failed, suspects = self._find_failed(scheduler, before, error)
        self._engine.reset()
        new = self._engine.open_scheduler(self.capacity)
        for sequence in failed:
            self._fail(self._choices.pop(sequence), error)
        self._suspects.extend(self._choices[d] for d in suspects)
        apart = {choice.sequence for choice in self._suspects}
        for sequence in list(self._choices):
            if sequence in apart:
                continue
            if new.finish_reason(sequence) is None:
                new.add(sequence)
            else:
                self._finish(self._choices.pop(sequence), new.finish_reason(sequence))
        return new

    def _find_failed(
        self, scheduler: OpenScheduler, before: Sequence[DecodingSequence], error: Exception
    ) -> tuple[list[DecodingSequence], list[DecodingSequence]]:
        """(sequences that caused the error, sequences that may have caused it)."""
        if isinstance(error, NonFiniteLogitsError) and not any(len(d.token_array) for d in error.sequences):
            return error.sequences, []  # their own prompts are the cause; only decoding mixes sequences
        if isinstance(error, NonFiniteLogitsError):
            suspects = error.sequences
        else:
            apart = {*scheduler.waiting, *before, *(choice.sequence for choice in self._suspects)}
            suspects = [d for d in self._choices if d not in apart] or list(before)
        if len(suspects) == 1:
            return [*suspects, *self._same_prompt(suspects[0])], []
        for sequence in suspects:
            self._choices[sequence].retries += 1
        failed = [d for d in suspects if self._choices[d].retries > MAX_RETRIES]
        return failed, [d for d in suspects if d not in failed]

    def _same_prompt(self, failed: DecodingSequence) -> list[DecodingSequence]:
        """Remove and return the suspects with the same prompt and no tokens yet."""
        same = [c for c in self._suspects if c.sequence.request is failed.request and not len(c.sequence.token_array)]
        if len(failed.token_array):
            return []
        self._suspects = deque(choice for choice in self._suspects if choice not in same)
        return [choice.sequence for choice in same]

    def _fail(self, choice: Choice, error: Exception) -> None:
        self._release(1)
        if not choice.failed:
            choice.failed = True
            choice.on_output(client_error(error))

    def _fail_all(self, error: Exception) -> None:
        while not self._inbox.empty():
            job = self._inbox.get_nowait()
            self._choices.update((choice.sequence, choice) for choice in job.choices)
        choices = [*self._choices.values(), *self._score_only]
        self._choices.clear()
        self._score_only.clear()
        for choice in choices:
            self._fail(choice, error)

    def _release(self, count: int) -> None:
        with self._lock:
            self._num_open -= count
