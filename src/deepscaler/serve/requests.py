"""What a client asks for, checked: OpenAI's request bodies as frozen values. Loads without torch.

A setting that would change the completion and is not implemented is refused, never ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_CHOICES = 128
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
# Refused unless they have the value that changes nothing.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "tools": (None, []),
    "functions": (None, []),
    "response_format": (None, {"type": "text"}),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "min_p": (None, 0),
    "echo": (None, False),
    "suffix": (None, ""),
    "best_of": (None, 1),
    "top_logprobs": (None, 0),
    "ignore_eos": (None, False),
    "min_tokens": (None, 0),
}


class RequestError(Exception):
    """A request that cannot be served: HTTP status, and OpenAI's `type`, `param` and `code`."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_exceeded" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request. messages: of the chat; prompt: text or token ids of a plain completion; exactly one of them is set.

    temperature 0 is greedy; top_k 0 is off; max_tokens None means up to the model's context; seed None a random one.
    """

    messages: tuple[dict[str, str], ...] | None
    prompt: str | tuple[int, ...] | None
    n: int
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    logprobs: bool
    stream: bool
    stream_usage: bool


def parse_chat(body: Any, model: str) -> Asked:
    """Raises RequestError."""
    document = _document(body, model)
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: expected a list of at least one message", param="messages")
    return _asked(document, messages=tuple(_message(m, i) for i, m in enumerate(messages)), prompt=None)


def parse_completion(body: Any, model: str) -> Asked:
    """Raises RequestError."""
    document = _document(body, model)
    prompt = document.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and not isinstance(prompt[0], int):
        prompt = prompt[0]  # a list of one prompt is that prompt
    if isinstance(prompt, list) and prompt and all(isinstance(i, int) and not isinstance(i, bool) for i in prompt):
        prompt = tuple(prompt)
    if not isinstance(prompt, str | tuple) or not prompt:
        raise RequestError("prompt: expected one text, or one list of token ids", param="prompt")
    return _asked(document, messages=None, prompt=prompt)


def _document(body: Any, model: str) -> Mapping[str, Any]:
    if not isinstance(body, dict):
        raise RequestError("the body is no JSON object")
    if body.get("model") != model:
        asked = body.get("model")
        raise RequestError(
            f"The model {asked!r} does not exist; this server has {model!r}",
            param="model",
            status=404,
            code="model_not_found",
        )
    for name, neutral in NEUTRAL.items():
        if name in body and body[name] not in neutral:
            raise RequestError(f"{name}: {body[name]!r:.60} is not supported by this server; leave it out", param=name)
    return body


def _message(message: Any, index: int) -> dict[str, str]:
    where = f"messages.{index}"
    if not isinstance(message, dict) or message.get("role") not in ("system", "developer", "user", "assistant"):
        raise RequestError(f"{where}: expected role system, user or assistant, and content", param="messages")
    content = message.get("content")
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise RequestError(f"{where}.content: expected text", param="messages")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content}


def _asked(document: Mapping[str, Any], **what: Any) -> Asked:
    limit = document.get("max_completion_tokens", document.get("max_tokens"))
    top_k = _number(document, "top_k", 0, -1, 2**31, whole=True)
    options = document.get("stream_options") or {}
    return Asked(
        n=int(_number(document, "n", 1, 1, MAX_CHOICES, whole=True)),
        max_tokens=None
        if limit is None
        else int(_number({"max_tokens": limit}, "max_tokens", 1, 1, 2**31, whole=True)),
        temperature=_number(document, "temperature", 1.0, 0.0, 100.0),
        top_p=_number(document, "top_p", 1.0, 1e-6, 1.0),
        top_k=max(0, int(top_k)),
        seed=None if document.get("seed") is None else int(_number(document, "seed", 0, -(2**63), 2**63, whole=True)),
        stop=_stops(document.get("stop")),
        # A number in plain completions, true or false in chats.
        logprobs=document.get("logprobs") not in (None, False),
        stream=document.get("stream") is True,
        stream_usage=isinstance(options, dict) and options.get("include_usage") is True,
        **what,
    )


def _number(
    document: Mapping[str, Any], name: str, default: float, least: float, most: float, *, whole: bool = False
) -> float:
    value = document.get(name)
    if value is None:
        return default
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise RequestError(f"{name}: expected {kind} from {least:g} to {most:g}, got {value!r:.40}", param=name)
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise RequestError(f"stop: expected a text or a list of at most {MAX_STOPS}", param="stop")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_CHARACTERS:
            raise RequestError(f"stop: expected texts of 1 to {MAX_STOP_CHARACTERS} characters", param="stop")
    return tuple(stops)
