"""What the server answers: OpenAI's objects for chats and plain completions, whole or in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate

from deepscaler.serve.choices import Logprobs, Piece
from deepscaler.serve.requests import Asked
from deepscaler.serve.text import ReasoningParser


@dataclass
class Reply:
    """One request's answer in the making. token_text: the text of a single token, for logprobs.

    echoed: for each prompt what precedes its completions: its text, or nothing. thinking: the prompt opened `<think>`,
    so that a chat's text begins with reasoning.
    """

    asked: Asked
    model: str
    num_prompt_tokens: int
    token_text: Callable[[int], str]
    echoed: Sequence[str] = ("",)
    thinking: bool = False
    num_completion_tokens: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._chat = self.asked.is_chat
        self.num_choices = self.asked.n * len(self.echoed)
        thinking = self.thinking and self._chat
        self._splitters = [ReasoningParser(thinking=thinking) for _ in range(self.num_choices)]
        self._started: set[int] = set()
        self.token_text = cache(self.token_text)

    def whole(self, pieces: Sequence[Piece]) -> dict[str, object]:
        """From the one last piece of each choice (with all its text)."""
        choices = [self._choice(piece) for piece in sorted(pieces, key=lambda p: p.index)]
        self.num_completion_tokens = sum(len(p.tokens) for p in pieces)
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    def chunk(self, piece: Piece) -> dict[str, object]:
        """One piece of a streamed answer."""
        self.num_completion_tokens += len(piece.tokens)
        last, first = piece.finish_reason is not None, piece.index not in self._started
        self._started.add(piece.index)
        choice: dict[str, object] = {"index": piece.index, "finish_reason": piece.finish_reason}
        if self._chat:
            reasoning, content = self._splitters[piece.index].push(piece.text, last=last)
            role = {"role": "assistant"} if first else {}
            thoughts = {"reasoning_content": reasoning} if reasoning else {}
            choice["delta"] = {**role, **thoughts, **({"content": content} if content or not thoughts else {})}
        else:
            choice["text"] = (self._echo(piece) if first else "") + piece.text
        if last and piece.logprobs is not None:
            choice["logprobs"] = self._logprobs(piece.logprobs)
        return {**self._head("chat.completion.chunk" if self._chat else "text_completion"), "choices": [choice]}

    def usage_chunk(self) -> dict[str, object]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head(kind), "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        made = self.num_completion_tokens
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.num_prompt_tokens + made,
        }

    def _head(self, kind: str) -> dict[str, object]:
        prefix = "chatcmpl" if self._chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _echo(self, piece: Piece) -> str:
        return self.echoed[piece.index // self.asked.n]

    def _choice(self, piece: Piece) -> dict[str, object]:
        choice: dict[str, object] = {"index": piece.index, "finish_reason": piece.finish_reason}
        choice["logprobs"] = None if piece.logprobs is None else self._logprobs(piece.logprobs)
        if not self._chat:
            return {**choice, "text": self._echo(piece) + piece.text}
        reasoning, content = self._splitters[piece.index].push(piece.text, last=True)
        message: dict[str, object] = {"role": "assistant", "content": content}
        if reasoning or self.thinking:
            message["reasoning_content"] = reasoning
        return {**choice, "message": message}

    def _logprobs(self, logprobs: Logprobs) -> dict[str, object]:
        """Under the distribution before top_k and top_p."""
        texts = [self.token_text(token) for token in logprobs.tokens]
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
        """Beside each token the likeliest ones with their logprobs; none where none were wanted."""
        scores = logprobs.scores
        if scores is None:
            return [[] for _ in logprobs.tokens]
        rows = zip(scores.top_ids.tolist(), scores.top_logprobs.tolist(), strict=True)
        tops = [[(self.token_text(i), v) for i, v in zip(ids, values, strict=True)] for ids, values in rows]
        return [[] for _ in range(len(logprobs.tokens) - len(tops))] + tops


def _entry(text: str, logprob: float | None) -> dict[str, object]:
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def _by_text(alternatives: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Of several tokens that read alike (parts of a character), the likeliest."""
    best: dict[str, float] = {}
    for text, value in alternatives:
        best[text] = max(value, best.get(text, value))
    return best


def event(document: dict[str, object]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
