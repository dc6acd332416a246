"""Turns the tokens of running completions into outputs: new text, finish reason, and log-probabilities at the end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import Sequence as DecodingSequence
from deepscaler.engines.torch.scoring import TokenScores
from deepscaler.serve.detokenizer import Detokenizer
from deepscaler.serve.requests import CompletionRequest, RequestError
from deepscaler.types import FinishReason, IntArray, RunError, SamplingParams

SERVE_STEP = -2  # draws of the server differ from those of training and evaluation


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Log-probabilities of `token_ids`, those of the completion, after the prompt's with `echo`. scores: alternatives.

    The first token of a prompt has no context, so with `echo` `values` and `scores` omit it.
    """

    token_ids: tuple[int, ...]
    values: tuple[float, ...]
    scores: TokenScores | None = None


@dataclass(frozen=True, slots=True)
class CompletionOutput:
    """New text of one choice. The final output also holds finish_reason, all token ids, and their logprobs."""

    index: int
    text: str
    finish_reason: str | None = None
    token_ids: tuple[int, ...] = ()
    logprobs: Logprobs | None = None


OutputCallback = Callable[[CompletionOutput | RequestError], None]


@dataclass(slots=True, eq=False)
class Choice:
    """One running completion. incremental: detokenize after every token, for streaming or stop strings.

    num_logprobs: alternatives per token, None for no log-probabilities; echo: include those of the prompt. failed: the
    client has received the error. retries: number of times it was retried alone after a failed step.
    """

    index: int
    sequence: DecodingSequence
    detokenizer: Detokenizer
    incremental: bool
    num_logprobs: int | None
    echo: bool
    on_output: OutputCallback
    failed: bool = False
    retries: int = 0

    def advance(self) -> None:
        """Pass on the text of a new token."""
        new = self.detokenizer.push(self.sequence.tokens)
        if self.detokenizer.stopped:
            self.sequence.cancelled = True  # the next step removes it
        if new:
            self.on_output(CompletionOutput(self.index, new))

    def finish(self, reason: FinishReason | None, stop_ids: frozenset[int], engine: TorchEngine) -> CompletionOutput:
        """The final output. Raises RunError when its tokens cannot be scored."""
        tokens = self.sequence.tokens
        stop_ids = stop_ids.union(self.sequence.params.stop_token_ids)
        shown = tokens[:-1] if tokens and tokens[-1] in stop_ids else tokens
        new = self.detokenizer.push(shown, last=True)
        finish_reason = "length" if reason is FinishReason.LENGTH and not self.detokenizer.stopped else "stop"
        return CompletionOutput(self.index, new, finish_reason, tuple(tokens), self._logprobs(engine))

    def _logprobs(self, engine: TorchEngine) -> Logprobs | None:
        if self.num_logprobs is None:
            return None
        prompt = self.sequence.request.prompt_ids
        tokens, values = tuple(self.sequence.tokens), tuple(self.sequence.logprobs)
        if self.echo:
            tokens = (*prompt.tolist(), *tokens)
        elif not self.num_logprobs:
            return Logprobs(tokens, values)
        # The prompt was not sampled: temperature 1.
        drawn = np.full(len(values), self.sequence.params.temperature, np.float32)
        temperatures = np.concatenate([np.ones(len(prompt) - 1, np.float32), drawn]) if self.echo else drawn
        if not len(temperatures):
            return Logprobs(tokens, ())
        scores = engine.score(self.sequence.ids, temperatures, self.num_logprobs)
        return Logprobs(tokens, tuple(scores.logprobs.tolist()), scores)


def client_error(error: Exception) -> RequestError:
    """The error as the client receives it; an unexpected one is also written to the log of the server."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, RunError):
        return RequestError(f"the engine failed: {error}", status=500)
    logging.getLogger("deepscaler.serve").error("a request failed in the engine", exc_info=error)
    return RequestError(f"the engine failed: {type(error).__name__}: {error!s:.500}", status=500)


def sampling_params(request: CompletionRequest, prompt_ids: IntArray, capacity: int, seed: int) -> SamplingParams:
    """Sampling parameters of a request. Raises RequestError when the budget exceeds the rest of the context."""
    left = capacity - len(prompt_ids)
    needed = 1 if request.max_tokens is None else request.max_tokens
    if needed > left:
        raise RequestError(
            f"this model's maximum context length is {capacity} tokens; the prompt has {len(prompt_ids)}, and "
            f"{'at least 1' if request.max_tokens is None else needed} were requested; lower max_tokens or shorten the "
            "prompt",
            param="max_tokens",
            code="context_length_exceeded",
        )
    budget = left if request.max_tokens is None else needed
    sampling = request.temperature, request.top_p, request.top_k
    # Stop strings are matched by the detokenizer, which truncates the text.
    return SamplingParams(budget, *sampling, seed=seed, step=SERVE_STEP, stop_token_ids=request.stop_token_ids)
