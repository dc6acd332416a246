"""Builds OpenAI's response objects for chats and plain completions: a single response, or chunks of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate

from deepscaler.serve.detokenizer import ReasoningParser
from deepscaler.serve.output_processor import CompletionOutput, Logprobs
from deepscaler.serve.requests import CompletionRequest


@dataclass
class ResponseBuilder:
    """Builds the response to one request. token_text: the text of a single token, for logprobs.

    echoed_prompts: the text in front of the completions of each prompt; empty without `echo`. thinking: the prompt ends
    inside `<think>`, so that the text of a chat begins with reasoning.
    """

    request: CompletionRequest
    model: str
    num_prompt_tokens: int
    token_text: Callable[[int], str]
    echoed_prompts: Sequence[str] = ("",)
    thinking: bool = False
    num_completion_tokens: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._chat = self.request.is_chat
        self.num_choices = self.request.n * len(self.echoed_prompts)
        thinking = self.thinking and self._chat
        self._reasoning_parsers = [ReasoningParser(thinking=thinking) for _ in range(self.num_choices)]
        self._started: set[int] = set()
        self.token_text = cache(self.token_text)

    def response(self, outputs: Sequence[CompletionOutput]) -> dict[str, object]:
        """The response, from the final output of each choice with all of its text."""
        choices = [self._choice(output) for output in sorted(outputs, key=lambda output: output.index)]
        self.num_completion_tokens = sum(len(output.token_ids) for output in outputs)
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    def chunk(self, output: CompletionOutput) -> dict[str, object]:
        """A chunk of a streamed response."""
        self.num_completion_tokens += len(output.token_ids)
        last, first = output.finish_reason is not None, output.index not in self._started
        self._started.add(output.index)
        choice: dict[str, object] = {"index": output.index, "finish_reason": output.finish_reason}
        if self._chat:
            reasoning, content = self._reasoning_parsers[output.index].push(output.text, last=last)
            role = {"role": "assistant"} if first else {}
            thoughts = {"reasoning_content": reasoning} if reasoning else {}
            choice["delta"] = {**role, **thoughts, **({"content": content} if content or not thoughts else {})}
        else:
            choice["text"] = (self._echo(output) if first else "") + output.text
        if last and output.logprobs is not None:
            choice["logprobs"] = self._logprobs(output.logprobs)
        return {**self._head("chat.completion.chunk" if self._chat else "text_completion"), "choices": [choice]}

    def usage_chunk(self) -> dict[str, object]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head(kind), "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": self.num_completion_tokens,
            "total_tokens": self.num_prompt_tokens + self.num_completion_tokens,
        }

    def _head(self, kind: str) -> dict[str, object]:
        prefix = "chatcmpl" if self._chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _echo(self, output: CompletionOutput) -> str:
        return self.echoed_prompts[output.index // self.request.n]

    def _choice(self, output: CompletionOutput) -> dict[str, object]:
        choice: dict[str, object] = {"index": output.index, "finish_reason": output.finish_reason}
        choice["logprobs"] = None if output.logprobs is None else self._logprobs(output.logprobs)
        if not self._chat:
            return {**choice, "text": self._echo(output) + output.text}
        reasoning, content = self._reasoning_parsers[output.index].push(output.text, last=True)
        message: dict[str, object] = {"role": "assistant", "content": content}
        if reasoning or self.thinking:
            message["reasoning_content"] = reasoning
        return {**choice, "message": message}

    def _logprobs(self, logprobs: Logprobs) -> dict[str, object]:
        """Log-probabilities under the distribution before top_k and top_p."""
        texts = [self.token_text(token) for token in logprobs.token_ids]
        tops = self._alternatives(logprobs)
        values = [*[None] * (len(texts) - len(logprobs.values)), *logprobs.values]
        if not self._chat:
            return {
                "tokens": texts,
                "token_logprobs": values,
                "top_logprobs": [
                    None if value is None else _by_text([(text, value), *top])
                    for text, value, top in zip(texts, values, tops, strict=True)
                ],
                "text_offset": [0, *accumulate(map(len, texts))][: len(texts)],
            }
        rows = zip(texts, values, tops, strict=True)
        return {"content": [{**_entry(t, v), "top_logprobs": [_entry(*a) for a in top]} for t, v, top in rows]}

    def _alternatives(self, logprobs: Logprobs) -> list[list[tuple[str, float]]]:
        """The likeliest tokens at each position with their logprobs; none where the request wants none."""
        scores = logprobs.scores
        if scores is None:
            return [[] for _ in logprobs.token_ids]
        rows = zip(scores.top_ids.tolist(), scores.top_logprobs.tolist(), strict=True)
        tops = [[(self.token_text(i), v) for i, v in zip(ids, values, strict=True)] for ids, values in rows]
        return [[] for _ in range(len(logprobs.token_ids) - len(tops))] + tops


def _entry(text: str, logprob: float | None) -> dict[str, object]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _by_text(alternatives: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The largest logprob of each text: several tokens may have the same text (parts of a character)."""
    best: dict[str, float] = {}
    for text, value in alternatives:
        best[text] = max(value, best.get(text, value))
    return best


def server_sent_event(document: dict[str, object]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
