"""One completion of a request: sampling parameters, incremental text, and log-probabilities at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import Sequence as DecodingSequence
from deepscaler.engines.torch.scoring import TokenScores
from deepscaler.serve.requests import Asked, RequestError
from deepscaler.serve.text import Detokenizer
from deepscaler.types import FinishReason, IntArray, RunError, SamplingParams

SERVE_STEP = -2  # draws of the server differ from those of training and evaluation


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of `tokens`, the last ones of prompt and completion. scores: alternatives, where requested.

    With `echo` the first token is the prompt's first, which has no context: `values` and `scores` omit it.
    """

    tokens: tuple[int, ...]
    values: tuple[float, ...]
    scores: TokenScores | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """New text of one choice. The last piece also holds finish_reason, all tokens, and their logprobs."""

    index: int
    text: str
    finish_reason: str | None = None
    tokens: tuple[int, ...] = ()
    logprobs: Logprobs | None = None


Deliver = Callable[[Piece | RequestError], None]


@dataclass(slots=True, eq=False)
class Choice:
    """One running completion. watched: detokenized after every token, for streaming or stop strings.

    logprobs: number of alternatives per token, None for no log-probabilities; echo: those of the prompt as well.
    failed: the client has received the error. trials: how often it was retried alone after its step had failed.
    """

    index: int
    sequence: DecodingSequence
    text: Detokenizer
    watched: bool
    logprobs: int | None
    echo: bool
    deliver: Deliver
    failed: bool = False
    trials: int = 0

    def advance(self) -> None:
        """Deliver the text of a new token."""
        new = self.text.push(self.sequence.tokens)
        if self.text.stopped:
            self.sequence.cancelled = True  # the next step removes it
        if new:
            self.deliver(Piece(self.index, new))

    def finish(self, reason: FinishReason | None, stop_ids: frozenset[int], engine: TorchEngine) -> Piece:
        """The last piece. Raises RunError when its tokens cannot be scored."""
        tokens = self.sequence.tokens
        stop_ids = stop_ids.union(self.sequence.params.stop_token_ids)
        shown = tokens[:-1] if tokens and tokens[-1] in stop_ids else tokens
        new = self.text.push(shown, last=True)
        word = "length" if reason is FinishReason.LENGTH and not self.text.stopped else "stop"
        return Piece(self.index, new, word, tuple(tokens), self._logprobs(engine))

    def _logprobs(self, engine: TorchEngine) -> Logprobs | None:
        if self.logprobs is None:
            return None
        prompt = self.sequence.request.prompt_ids
        tokens, values = tuple(self.sequence.tokens), tuple(self.sequence.logprobs)
        if self.echo:
            tokens = (*prompt.tolist(), *tokens)
        elif not self.logprobs:
            return Logprobs(tokens, values)
        # The prompt was not sampled: temperature 1.
        drawn = np.full(len(values), self.sequence.params.temperature, np.float32)
        temperatures = np.concatenate([np.ones(len(prompt) - 1, np.float32), drawn]) if self.echo else drawn
        if not len(temperatures):
            return Logprobs(tokens, ())
        scores = engine.score(self.sequence.ids, temperatures, self.logprobs)
        return Logprobs(tokens, tuple(scores.logprobs.tolist()), scores)


def client_error(error: Exception) -> RequestError:
    """The error for the client; an unexpected one is written to the server's log as well."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, RunError):
        return RequestError(f"the engine failed: {error}", status=500)
    logging.getLogger("deepscaler.serve").error("a request failed in the engine", exc_info=error)
    return RequestError(f"the engine failed: {type(error).__name__}: {error!s:.500}", status=500)


def sampling_params(asked: Asked, prompt_ids: IntArray, capacity: int, seed: int) -> SamplingParams:
    """Sampling parameters of a request. Raises RequestError when the budget exceeds the rest of the context."""
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
    # Stop strings are matched by the detokenizer, which truncates the text.
    return SamplingParams(budget, *how, seed=seed, step=SERVE_STEP, stop_token_ids=asked.stop_token_ids)
