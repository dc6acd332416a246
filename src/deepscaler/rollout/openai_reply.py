"""What a server's reply to one chat completion means, and what is wrong with it. No network here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from deepscaler.types import FinishReason

# `content_filter`, `tool_calls` and whatever servers invent are ends we know nothing about.
_FINISH = {"stop": FinishReason.STOP, "eos": FinishReason.STOP, "length": FinishReason.LENGTH}


class MalformedReplyError(ValueError):
    """The body is not a chat completion; the message says why."""


@dataclass(frozen=True, slots=True)
class Reply:
    """text: reasoning that came apart from the answer (`reasoning_content`, `reasoning`) in `<think>` tags before it.

    num_tokens: completion tokens as the server counted them, None when it did not.
    """

    text: str
    num_tokens: int | None
    finish_reason: FinishReason
    id: str
    model: str
    num_choices: int
    texts: tuple[str, ...]


def parse_reply(body: bytes) -> Reply:
    """The first choice of a chat completion. Raises MalformedReplyError."""
    try:
        document = json.loads(body)
    except ValueError as error:
        raise MalformedReplyError(f"not JSON ({error})") from error
    if not isinstance(document, dict):
        raise MalformedReplyError(f"expected an object, got {body[:40]!r}")
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) for c in choices):
        raise MalformedReplyError(f"no choices in {body[:120]!r}")
    texts = tuple(_text(choice.get("message")) for choice in choices)
    return Reply(
        text=texts[0],
        num_tokens=_num_tokens(document.get("usage"), len(choices)),
        finish_reason=_FINISH.get(str(choices[0].get("finish_reason")), FinishReason.UNKNOWN),
        id=str(document.get("id") or ""),
        model=str(document.get("model") or ""),
        num_choices=len(choices),
        texts=texts,
    )


def _text(message: Any) -> str:
    if not isinstance(message, dict):
        raise MalformedReplyError("a choice without message")
    content = message.get("content") or ""
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    if not isinstance(content, str) or not isinstance(reasoning, str):
        raise MalformedReplyError("the message's content is no text")
    # With content, the thoughts have ended; without, the completion ended inside them and has no final part.
    closing = f"\n</think>\n{content}" if content else ""
    text = f"<think>\n{reasoning}{closing}" if reasoning else content
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is legal JSON and no text


def _num_tokens(usage: Any, num_choices: int) -> int | None:
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if num_choices > 1 or isinstance(count, bool) or not isinstance(count, int) or count < 0:
        return None
    return count


def error_message(body: bytes) -> str:
    """The words of an error in OpenAI's shape, or the beginning of whatever came instead."""
    try:
        document = json.loads(body)
    except ValueError:
        document = None
    if isinstance(document, dict):
        error = document.get("error", document)
        words = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if words:
            return " ".join(str(words).split())[:500]
    return " ".join(body[:200].decode("utf-8", "replace").split()) or "an empty body"
