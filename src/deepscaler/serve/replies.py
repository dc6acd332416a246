"""What the server answers: OpenAI's objects for chats and plain completions, whole or in pieces."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepscaler.serve.engine_thread import Piece
from deepscaler.serve.requests import Asked
from deepscaler.serve.text import ThoughtSplitter


@dataclass
class Reply:
    """One request's answer in the making. token_text: the text of a single token, for logprobs.

    thinking: the prompt opened `<think>`, so that a chat's text begins with reasoning.
    """

    asked: Asked
    model: str
    num_prompt_tokens: int
    token_text: Callable[[int], str]
    thinking: bool = False
    num_completion_tokens: int = 0
    created: int = field(default_factory=lambda: int(time.time()))
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self._chat = self.asked.messages is not None
        self._splitters = [ThoughtSplitter(thinking=self.thinking and self._chat) for _ in range(self.asked.n)]
        self._started: set[int] = set()

    def whole(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        """From the one last piece of each choice (with all its text)."""
        choices = [self._choice(piece) for piece in sorted(pieces, key=lambda p: p.index)]
        self.num_completion_tokens = sum(len(p.tokens) for p in pieces)
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head(kind), "choices": choices, "usage": self.usage()}

    def chunk(self, piece: Piece) -> dict[str, Any]:
        """One piece of a streamed answer."""
        self.num_completion_tokens += len(piece.tokens)
        last = piece.finish_reason is not None
        choice: dict[str, Any] = {"index": piece.index, "finish_reason": piece.finish_reason}
        if self._chat:
            reasoning, content = self._splitters[piece.index].push(piece.text, last=last)
            role = {} if piece.index in self._started else {"role": "assistant"}
            self._started.add(piece.index)
            thoughts = {"reasoning_content": reasoning} if reasoning else {}
            choice["delta"] = {**role, **thoughts, **({"content": content} if content or not thoughts else {})}
        else:
            choice["text"] = piece.text
        if last and self.asked.logprobs:
            choice["logprobs"] = self._logprobs(piece)
        return {**self._head("chat.completion.chunk" if self._chat else "text_completion"), "choices": [choice]}

    def usage_chunk(self) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head(kind), "choices": [], "usage": self.usage()}

    def usage(self) -> dict[str, int]:
        made = self.num_completion_tokens
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.num_prompt_tokens + made,
        }

    def _head(self, kind: str) -> dict[str, Any]:
        prefix = "chatcmpl" if self._chat else "cmpl"
        return {"id": f"{prefix}-{self.id}", "object": kind, "created": self.created, "model": self.model}

    def _choice(self, piece: Piece) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": piece.index, "finish_reason": piece.finish_reason}
        choice["logprobs"] = self._logprobs(piece) if self.asked.logprobs else None
        if not self._chat:
            return {**choice, "text": piece.text}
        reasoning, content = self._splitters[piece.index].push(piece.text, last=True)
        message: dict[str, Any] = {"role": "assistant", "content": content}
        if reasoning or self.thinking:
            message["reasoning_content"] = reasoning
        return {**choice, "message": message}

    def _logprobs(self, piece: Piece) -> dict[str, Any]:
        """Of the sampled tokens, under the distribution before top_k and top_p."""
        texts = [self.token_text(token) for token in piece.tokens]
        if not self._chat:
            return {"tokens": texts, "token_logprobs": list(piece.logprobs), "top_logprobs": None, "text_offset": None}
        rows = [
            {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
            for text, logprob in zip(texts, piece.logprobs, strict=True)
        ]
        return {"content": rows}


def event(document: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(document).encode() + b"\n\n"


DONE = b"data: [DONE]\n\n"
