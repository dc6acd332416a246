"""A row's `prompt`: a problem's text, or a conversation whose last message asks it.

[{"role": "user", "content": "1+1?"}]      OpenAI's messages, as TRL and verl have them
[{"from": "human", "value": "1+1?"}]       ShareGPT
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from deepscaler.json_text import parse_json
from deepscaler.types import Message

_ROLES = ("system", "developer", "user", "assistant", "tool")
_SHAREGPT = {"human": "user", "gpt": "assistant", "function_call": "assistant", "observation": "tool"}
_REASONING = ("reasoning_content", "reasoning", "thinking")  # a field beside `content`, as servers and datasets name it
_JSON = re.compile(r"\s*\[\s*\{")
_PYTHON = re.compile(r"\s*\[\s*\{\s*'(?:role|content|from|value)'")


class ConversationError(ValueError):
    """A conversation that cannot be asked as it is. reason: how preparation counts it."""

    def __init__(self, message: str, reason: str = "conversation") -> None:
        super().__init__(message)
        self.reason = reason


def read_prompt(prompt: object, *, answered: bool = False) -> tuple[object, tuple[Message, ...]]:
    """(what the last message asks, the messages before it). A prompt that is no conversation comes back as it is.

    A conversation is a list of messages, or such a list as JSON text. answered: what the assistant says at its end is
    an answer and no part of the prompt. Raises ConversationError for one that does not end with the user's turn, or
    holds something else than text.
    """
    messages = conversation(prompt)
    if messages is None:
        return prompt, ()
    while answered and messages and messages[-1].role == "assistant":
        messages = messages[:-1]
    if not messages or messages[-1].role != "user":
        last = f"ends with a message of {messages[-1].role!r}" if messages else "holds no message"
        raise ConversationError(f"the conversation {last}; its last message must be the user's, which asks the problem")
    return messages[-1].content, messages[:-1]


def conversation(prompt: object) -> tuple[Message, ...] | None:
    """The messages of a prompt, None where it is none. Raises ConversationError."""
    if isinstance(prompt, str):
        if _PYTHON.match(prompt):
            raise ConversationError("a conversation written as Python's text; write it as JSON")
        prompt = decoded(prompt) if _JSON.match(prompt) else None
        if not (isinstance(prompt, list) and all(map(_is_message, prompt))):
            return None
    if not (isinstance(prompt, list) and all(isinstance(message, Mapping) for message in prompt)):
        return None
    return tuple(_message(number, message) for number, message in enumerate(prompt))


def _is_message(value: object) -> bool:
    return isinstance(value, Mapping) and ("role" in value or "from" in value)


def _message(number: int, message: Mapping[str, object]) -> Message:
    is_sharegpt = "from" in message and "role" not in message
    role = message.get("from" if is_sharegpt else "role")
    role = _SHAREGPT.get(role, role) if is_sharegpt and isinstance(role, str) else role
    if not isinstance(role, str) or role not in _ROLES:
        known = (*_ROLES, *_SHAREGPT) if is_sharegpt else _ROLES
        raise ConversationError(f"message {number} has the role {role!r}; known are {', '.join(known)}")
    content = message.get("value" if is_sharegpt else "content")
    if isinstance(content, list):
        content = "".join(_text_part(number, part) for part in content)
    if not isinstance(content, str):
        if content is None and message.get("tool_calls"):
            raise ConversationError(f"message {number} calls a tool and holds no text; only text can be learned")
        raise ConversationError(f"message {number} has no text as its content, but {type(content).__name__}")
    return Message(role, _with_reasoning(message, content) if role == "assistant" else content)


def _with_reasoning(message: Mapping[str, object], content: str) -> str:
    """Reasoning in a field of its own is put before the answer, as a model writes it."""
    found = (message.get(name) for name in _REASONING)
    reasoning = next((text for text in found if isinstance(text, str) and text.strip()), "")
    return f"<think>\n{reasoning.strip()}\n</think>\n\n{content}" if reasoning else content


def _text_part(number: int, part: object) -> str:
    """The text of one part of a content, as multimodal models are given it."""
    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
    text = part.get("text") if isinstance(part, Mapping) else part
    if kind not in ("text", "str", None) or not isinstance(text, str):
        reason = "needs_image" if "image" in str(kind) else "conversation"
        raise ConversationError(f"message {number} holds a part of type {kind!r}; only text can be asked", reason)
    return text


def decoded(value: object) -> object:
    """The list or object that a text holds as JSON, as CSV files have them; any other value as it is."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            return parse_json(value)
        except ValueError:
            return value
    return value
