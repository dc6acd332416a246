"""One completion of a request: how it is sampled, its text as it comes, and its log-probabilities at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import Sequence as Decoding
from deepscaler.engines.torch.scoring import TokenScores
from deepscaler.serve.requests import Asked, RequestError
from deepscaler.serve.text import TextStream
from deepscaler.types import FinishReason, IntArray, RunError, SamplingParams

SERVE_STEP = -2  # keeps the server's draws apart from those of training and evaluation


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Of `tokens`, the last ones of prompt and completion. `scores` has the alternatives, where any were wanted.

    With `echo` the first token is the prompt's first, which has nothing before it: `values` and `scores` lack it.
    """

    tokens: tuple[int, ...]
    values: tuple[float, ...]
    scores: TokenScores | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one choice. The rest comes with its last piece: finish_reason, all its tokens, their logprobs."""

    index: int
    text: str
    finish_reason: str | None = None
    tokens: tuple[int, ...] = ()
    logprobs: Logprobs | None = None


Deliver = Callable[[Piece | RequestError], None]


@dataclass(slots=True, eq=False)
class Choice:
    """One completion under way. watched: its text is looked at after every token: it is streamed, or has stop strings.

    logprobs: how many alternatives to tell beside each token, None for no log-probabilities; echo: the prompt's too.
    failed: its client knows already. trials: how often it was tried alone because the batch it was in had failed.
    """

    index: int
    decoding: Decoding
    text: TextStream
    watched: bool
    logprobs: int | None
    echo: bool
    deliver: Deliver
    failed: bool = False
    trials: int = 0

    def advance(self) -> None:
        """After a token."""
        new = self.text.push(self.decoding.tokens)
        if self.text.stopped:
            self.decoding.cancelled = True  # leaves the batch at the next step
        if new:
            self.deliver(Piece(self.index, new))

    def finish(self, reason: FinishReason | None, stop_ids: frozenset[int], engine: TorchEngine) -> Piece:
        """The last piece. Raises RunError when its tokens cannot be scored."""
        tokens = self.decoding.tokens
        stop_ids = stop_ids.union(self.decoding.params.stop_token_ids)
        shown = tokens[:-1] if tokens and tokens[-1] in stop_ids else tokens
        new = self.text.push(shown, last=True)
        word = "length" if reason is FinishReason.LENGTH and not self.text.stopped else "stop"
        return Piece(self.index, new, word, tuple(tokens), self._logprobs(engine))

    def _logprobs(self, engine: TorchEngine) -> Logprobs | None:
        if self.logprobs is None:
            return None
        prompt = self.decoding.request.prompt_ids
        tokens, values = tuple(self.decoding.tokens), tuple(self.decoding.logprobs)
        if self.echo:
            tokens = (*prompt.tolist(), *tokens)
        elif not self.logprobs:
            return Logprobs(tokens, values)
        # The prompt was not sampled: its distribution is the model's own.
        drawn = np.full(len(values), self.decoding.params.temperature, np.float32)
        temperatures = np.concatenate([np.ones(len(prompt) - 1, np.float32), drawn]) if self.echo else drawn
        if not len(temperatures):
            return Logprobs(tokens, ())
        scores = engine.score(self.decoding.ids, temperatures, self.logprobs)
        return Logprobs(tokens, tuple(scores.logprobs.tolist()), scores)


def told(error: Exception) -> RequestError:
    """What the client is told; what is not written for it goes to the server's log as well."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, RunError):
        return RequestError(f"the engine failed: {error}", status=500)
    logging.getLogger("deepscaler.serve").error("a request failed in the engine", exc_info=error)
    return RequestError(f"the engine failed: {type(error).__name__}: {error!s:.500}", status=500)


def sampling(asked: Asked, prompt_ids: IntArray, capacity: int, seed: int) -> SamplingParams:
    """Of a request. Raises RequestError when the budget exceeds what is left of the context."""
    left = capacity - len(prompt_ids)
    needed = 1 if asked.max_tokens is None else asked.max_tokens
    if needed > left:
        raise RequestError(
            f"this model's maximum context length is {capacity} tokens; the prompt has {len(prompt_ids)}, and "
            f"{'at least 1' if asked.max_tokens is None else needed} were asked for; lower max_tokens or shorten the "
            "prompt",
            param="max_tokens",
            code="context_length_exceeded",
        )
    budget = left if asked.max_tokens is None else needed
    how = asked.temperature, asked.top_p, asked.top_k
    # Stop strings are looked for where the text is made, which knows what is shown of it.
    return SamplingParams(budget, *how, seed=seed, step=SERVE_STEP, stop_token_ids=asked.stop_token_ids)
