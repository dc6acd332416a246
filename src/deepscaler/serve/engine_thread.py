"""The thread that owns the engine: requests join and leave its batch at any step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deepscaler.rollout.batch import Batch
from deepscaler.rollout.batch import Sequence as Decoding
from deepscaler.rollout.torch_engine import TorchEngine
from deepscaler.serve.requests import RequestError
from deepscaler.serve.text import TextStream
from deepscaler.types import FinishReason, IntArray, Request, RunError, SamplingParams

IDLE_S = 0.5
SERVE_STEP = -2  # keeps the server's draws apart from those of training and evaluation


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one choice. finish_reason is set with its last piece, together with tokens and their logprobs."""

    index: int
    text: str
    finish_reason: str | None = None
    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()


Deliver = Callable[[Piece | Exception], None]


@dataclass(slots=True, eq=False)
class _Choice:
    """One completion under way: its decoding, its text, and where its pieces go."""

    index: int
    decoding: Decoding
    text: TextStream
    watched: bool  # its text is looked at after every token: it is streamed, or has stop strings
    deliver: Deliver


class Job:
    """A submitted request. `cancel` from any thread."""

    def __init__(self, choices: list[_Choice]) -> None:
        self.choices = choices

    def cancel(self) -> None:
        for choice in self.choices:
            choice.decoding.cancelled = True


class EngineThread:
    """decode: token ids -> text. capacity: tokens of prompt and completion. max_queued: sequences that may wait.

    stop: texts that end every completion, beside those of its request.
    """

    def __init__(
        self,
        engine: TorchEngine,
        *,
        decode: Callable[[Sequence[int]], str],
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
        self._choices: dict[Decoding, _Choice] = {}
        self._lock = threading.Lock()
        self._num_open = 0
        self._closing = threading.Event()
        self._broken: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        prompt_ids: IntArray,
        params: SamplingParams,
        *,
        n: int,
        stops: Sequence[str],
        stream: bool,
        deliver: Deliver,
    ) -> Job:
        """`deliver` gets every piece, or an exception, in the engine's thread. Raises RequestError when full (429)."""
        if self._broken is not None:
            raise RequestError(f"the engine failed ({self._broken}); restart the server", status=500)
        stops = (*stops, *self._stop)
        request = Request("serve", prompt_ids, n)
        choices = [
            _Choice(i, Decoding(request, i, params), TextStream(self._decode, stops), stream or bool(stops), deliver)
            for i in range(n)
        ]
        with self._lock:
            if self._num_open + n > self._max_queued:
                raise RequestError(
                    f"{self._num_open} completions are waiting or under way, the server takes {self._max_queued}; "
                    "try again later",
                    status=429,
                    code="queue_full",
                )
            self._num_open += n
        job = Job(choices)
        self._inbox.put(job)
        return job

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
            self._fail(error)
            raise

    def _decode_all(self) -> None:
        batch = self._engine.open_batch(self.capacity)
        while not self._closing.is_set():
            self._take(batch)
            if batch.is_empty:
                continue
            try:
                finished = batch.step()
            except RunError as error:  # logits that are no numbers: what was under way is lost, the server goes on
                self._fail(error)
                batch = self._engine.open_batch(self.capacity)
                continue
            for decoding in batch.active:
                choice = self._choices[decoding]
                if choice.watched and not decoding.cancelled:
                    self._advance(choice)
            for decoding in finished:
                self._finish(self._choices.pop(decoding), batch.finish_reason(decoding))
        self._fail(RunError("the server is shutting down"))

    def _take(self, batch: Batch) -> None:
        """Let new requests join; wait for one when there is nothing else to do."""
        wait = batch.is_empty
        while True:
            try:
                job = self._inbox.get(timeout=IDLE_S) if wait else self._inbox.get_nowait()
            except queue.Empty:
                return
            wait = False
            for choice in job.choices:
                self._choices[choice.decoding] = choice
                batch.add(choice.decoding)

    def _advance(self, choice: _Choice) -> None:
        new = choice.text.push(choice.decoding.tokens)
        if choice.text.stopped:
            choice.decoding.cancelled = True  # leaves the batch at the next step
        if new:
            choice.deliver(Piece(choice.index, new))

    def _finish(self, choice: _Choice, reason: FinishReason | None) -> None:
        tokens = choice.decoding.tokens
        stop_ids = self._stop_ids.union(choice.decoding.params.stop_token_ids)
        shown = tokens[:-1] if tokens and tokens[-1] in stop_ids else tokens
        new = choice.text.push(shown, last=True)
        word = "length" if reason is FinishReason.LENGTH and not choice.text.stopped else "stop"
        piece = Piece(choice.index, new, word, tuple(tokens), tuple(choice.decoding.logprobs))
        self._release(1)
        choice.deliver(piece)

    def _fail(self, error: Exception) -> None:
        while not self._inbox.empty():
            job = self._inbox.get_nowait()
            self._choices.update((choice.decoding, choice) for choice in job.choices)
        choices = list(self._choices.values())
        self._choices.clear()
        self._release(len(choices))
        for choice in choices:
            choice.deliver(error)

    def _release(self, count: int) -> None:
        with self._lock:
            self._num_open -= count


def sampling(asked: Any, prompt_ids: IntArray, capacity: int, seed: int) -> SamplingParams:
    """Of a request. Raises RequestError when the budget exceeds what is left of the context."""
    left = capacity - len(prompt_ids)
    budget = left if asked.max_tokens is None else asked.max_tokens
    if left < 1 or budget > left:
        raise RequestError(
            f"this model's maximum context length is {capacity} tokens; the prompt has {len(prompt_ids)}, and "
            f"{budget if asked.max_tokens else 'at least 1'} were asked for; lower max_tokens or shorten the prompt",
            param="max_tokens",
            code="context_length_exceeded",
        )
    return SamplingParams(budget, asked.temperature, asked.top_p, asked.top_k, seed=seed, step=SERVE_STEP)
