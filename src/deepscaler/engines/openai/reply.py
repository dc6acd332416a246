"""Parsing and validation of chat completions returned by a server. No network here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from deepscaler.json_text import parse_json
from deepscaler.types import FinishReason

MAX_COUNT = 2**31 - 1  # tokens; the files store 32 bits
# `content_filter`, `tool_calls` and reasons of single servers become UNKNOWN.
_FINISH = {"stop": FinishReason.STOP, "eos": FinishReason.STOP, "length": FinishReason.LENGTH}


class MalformedReplyError(ValueError):
    """The body is not a chat completion; the message gives the reason."""


class TruncatedReplyError(ValueError):
    """A streamed reply ended before the server marked it as complete."""


@dataclass(frozen=True, slots=True)
class Reply:
    """text: content, with separate reasoning (`reasoning_content`, `reasoning`) in `<think>` tags before it.

    num_tokens: completion tokens as counted by the server, None without a count. streamed: received as a stream.
    """

    text: str
    num_tokens: int | None
    finish_reason: FinishReason
    id: str
    model: str
    num_choices: int
    texts: tuple[str, ...]
    streamed: bool = False


def parse_reply(body: bytes) -> Reply:
    """The first choice of a chat completion. Raises MalformedReplyError."""
    try:
        document = parse_json(body)
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


def _text(message: object) -> str:
    if not isinstance(message, dict):
        raise MalformedReplyError("a choice without message")
    return _joined(*_texts(message))


def _texts(message: Mapping[str, object]) -> tuple[str, str]:
    """(content, reasoning) of a message or a piece of one. Raises MalformedReplyError for anything but text.

    The content may be a list of parts: of type `text`, joined, and of type `thinking`, which are reasoning.
    """
    content, reasoning = (
        message.get("content") or "",
        message.get("reasoning_content") or message.get("reasoning") or "",
    )
    if isinstance(content, list):
        parts = [(part, part.get("type") if isinstance(part, Mapping) else None) for part in content]
        content = "".join(_part_text(part, "text") for part, kind in parts if kind != "thinking")
        reasoning = reasoning or "".join(_part_text(part, "thinking") for part, kind in parts if kind == "thinking")
    if not isinstance(content, str) or not isinstance(reasoning, str):
        raise MalformedReplyError("the content of the message is not text")
    return content, reasoning


def _part_text(part: object, field: str) -> str:
    """The text of one part; a thinking part may hold parts of text itself."""
    value = part.get(field) if isinstance(part, Mapping) else None
    if isinstance(value, list):
        return "".join(_part_text(inner, "text") for inner in value)
    if not isinstance(value, str):
        raise MalformedReplyError(f"a part of the message is not text: {part!r:.80}")
    return value


def _joined(content: str, reasoning: str) -> str:
    # Without content the completion ended inside its reasoning and has no final part.
    closing = f"\n</think>\n{content}" if content else ""
    text = f"<think>\n{reasoning}{closing}" if reasoning else content
    return text.encode("utf-8", "replace").decode("utf-8")  # half a surrogate pair is legal JSON but not text


class StreamedReply:
    """A chat completion assembled from server-sent events; keeps the text, not the events."""

    def __init__(self) -> None:
        self._rest = bytearray()  # incomplete last line
        self._content: dict[int, list[str]] = {}
        self._reasoning: dict[int, list[str]] = {}
        self._finish: dict[int, str] = {}
        self._metadata: dict[str, object] = {}
        self._done = False

    def feed(self, data: bytes) -> int:
        """Parse the next bytes; returns how many of them were text. Raises MalformedReplyError."""
        self._rest += data
        *lines, rest = bytes(self._rest).split(b"\n")
        self._rest = bytearray(rest)
        return sum(self._event(line[5:].strip()) for line in lines if line.startswith(b"data:"))

    def reply(self) -> Reply:
        """The complete reply. Raises TruncatedReplyError without its end, MalformedReplyError without a choice."""
        if self._rest:
            self.feed(b"\n")
        if not self._done and not self._finish:
            raise TruncatedReplyError("the stream ended before the completion did")
        indices = sorted(self._content.keys() | self._reasoning.keys() | self._finish.keys())
        if not indices:
            raise MalformedReplyError("a stream without choices")
        texts = tuple(_joined("".join(self._content.get(i, ())), "".join(self._reasoning.get(i, ()))) for i in indices)
        return Reply(
            text=texts[0],
            num_tokens=_num_tokens(self._metadata.get("usage"), len(indices)),
            finish_reason=_FINISH.get(self._finish.get(indices[0], ""), FinishReason.UNKNOWN),
            id=str(self._metadata.get("id") or ""),
            model=str(self._metadata.get("model") or ""),
            num_choices=len(indices),
            texts=texts,
            streamed=True,
        )

    def _event(self, data: bytes) -> int:
        if data == b"[DONE]":
            self._done = True
            return 0
        try:
            event = parse_json(data)
        except ValueError as error:
            raise MalformedReplyError(f"an event that is not JSON ({error})") from error
        if not isinstance(event, dict) or event.get("error"):
            raise MalformedReplyError(f"the stream broke off: {error_message(data)}")
        for name in ("id", "model", "usage"):
            if event.get(name):
                self._metadata[name] = event[name]
        choices = event.get("choices") or []
        if not isinstance(choices, list):
            raise MalformedReplyError("an event whose choices are not a list")
        return sum(self._add_choice(choice) for choice in choices)

    def _add_choice(self, choice: object) -> int:
        if not isinstance(choice, dict) or not isinstance(delta := choice.get("delta") or {}, dict):
            raise MalformedReplyError("a choice without delta")
        index = choice.get("index")
        index = index if isinstance(index, int) else 0
        if choice.get("finish_reason"):
            self._finish[index] = str(choice["finish_reason"])
        content, reasoning = _texts(delta)
        if content:
            self._content.setdefault(index, []).append(content)
        if reasoning:
            self._reasoning.setdefault(index, []).append(reasoning)
        return len(content) + len(reasoning)


def _num_tokens(usage: object, num_choices: int) -> int | None:
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    if num_choices > 1 or isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= MAX_COUNT:
        return None
    return count


def error_message(body: bytes) -> str:
    """The message of an error in OpenAI's format, or the beginning of the body in any other format."""
    try:
        document = parse_json(body)
    except ValueError:
        document = None
    if isinstance(document, dict):
        error = document.get("error", document)
        words = error.get("message") or error.get("detail") if isinstance(error, dict) else error
        if words:
            return " ".join(str(words).split())[:500]
    return " ".join(body[:200].decode("utf-8", "replace").split()) or "an empty body"
