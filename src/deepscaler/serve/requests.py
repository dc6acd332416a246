"""Parses OpenAI's request bodies into frozen, validated requests. Loads without torch.

A field that would change the completion and is not implemented is refused, never ignored (`validation`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepscaler.serve import validation
from deepscaler.serve.validation import (
    RequestError,
    boolean,
    check_fields,
    check_other_endpoint,
    number,
    stop_strings,
    stop_token_ids,
)

__all__ = ["CompletionRequest", "RequestError", "parse_chat", "parse_completion"]

MAX_CHOICES = 128
MAX_TOP_LOGPROBS = 20
GREEDY_BELOW = 1e-5  # as in vLLM: dividing logits by less could overflow


@dataclass(frozen=True, slots=True)
class ChatTemplateOptions:
    """Options of rendering a chat. variables: `chat_template_kwargs`, passed to the model's template."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    variables: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A request of either endpoint. A chat has messages and no prompts, a plain completion prompts and no messages.

    prompts: each a text or token ids; n: completions per prompt; max_tokens: None for the rest of the context;
    temperature: 0 for greedy; top_k: 0 for off; seed: None for a random one; logprobs: number of the likeliest tokens
    returned beside each token, None for no log-probabilities.
    """

    messages: tuple[dict[str, str], ...]
    prompts: tuple[str | tuple[int, ...], ...]
    template: ChatTemplateOptions
    echo: bool
    n: int
    max_tokens: int | None
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    stop: tuple[str, ...]
    stop_token_ids: tuple[int, ...]
    logprobs: int | None
    stream: bool
    stream_usage: bool
    skip_special_tokens: bool
    add_special_tokens: bool

    @property
    def is_chat(self) -> bool:
        return bool(self.messages)


def parse_chat(body: object, model: str) -> CompletionRequest:
    """Raises RequestError."""
    document = _document(body, validation.CHAT_FIELDS, validation.COMPLETION_FIELDS, "/v1/completions")
    _check_model(document, model)
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("messages: expected a list of at least one message", param="messages")
    limit = document.get("max_completion_tokens")
    name = "max_tokens" if limit is None else "max_completion_tokens"
    return _completion_request(
        document,
        messages=tuple(_message(m, i) for i, m in enumerate(messages)),
        prompts=(),
        template=_template(document, messages),
        echo=False,
        max_tokens=_count(document, name, least=1),
        logprobs=_chat_logprobs(document),
        add_special_tokens=boolean(document, "add_special_tokens", default=False),
    )


def parse_completion(body: object, model: str) -> CompletionRequest:
    """Raises RequestError."""
    document = _document(body, validation.COMPLETION_FIELDS, validation.CHAT_FIELDS, "/v1/chat/completions")
    _check_model(document, model)
    echo = boolean(document, "echo", default=False)
    most = MAX_TOP_LOGPROBS
    given = document.get("logprobs")
    return _completion_request(
        document,
        messages=(),
        prompts=_prompts(document.get("prompt")),
        template=ChatTemplateOptions(),
        echo=echo,
        # With `echo` a client may want the log-probabilities of the prompt only.
        max_tokens=_count(document, "max_tokens", least=0 if echo else 1),
        logprobs=None if given is None else int(number(document, "logprobs", 0, 0, most, whole=True)),
        add_special_tokens=boolean(document, "add_special_tokens", default=True),
    )


def _document(body: object, known: frozenset[str], others: frozenset[str], path: str) -> Mapping[str, object]:
    if not isinstance(body, dict):
        raise RequestError("the body is not a JSON object")
    check_other_endpoint(body, known, others, path)
    check_fields(body, known | validation.IGNORED_FIELDS, validation.UNSUPPORTED_FIELDS)
    return body


def _check_model(document: Mapping[str, object], model: str) -> None:
    name = document.get("model")
    if name != model:
        raise no_such_model(name, model)


def no_such_model(name: object, model: str) -> RequestError:
    message = f"The model {name!r:.200} does not exist; this server has {model!r}"
    return RequestError(message, param="model", status=404, code="model_not_found")


def _prompts(prompt: object) -> tuple[str | tuple[int, ...], ...]:
    """One text, one list of token ids, or a list of either."""
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], str | list):
        return tuple(map(_prompt, prompt))
    return (_prompt(prompt),)


def _prompt(prompt: object) -> str | tuple[int, ...]:
    if isinstance(prompt, str) and prompt:
        return prompt
    if isinstance(prompt, list) and prompt and all(type(i) is int for i in prompt):
        return tuple(prompt)
    raise RequestError(
        "prompt: expected a non-empty text, a non-empty list of token ids, or a list of either", param="prompt"
    )


def _message(message: object, index: int) -> dict[str, str]:
    where = f"messages.{index}"
    if not isinstance(message, dict) or message.get("role") not in ("system", "developer", "user", "assistant"):
        raise RequestError(f"{where}: expected role system, user or assistant, and content", param="messages")
    check_fields(message, validation.MESSAGE_FIELDS, validation.UNSUPPORTED_MESSAGE_FIELDS, f"{where}.")
    content, thoughts = message.get("content"), message.get("reasoning_content")
    if isinstance(content, list):
        content = "".join(_part(part, f"{where}.content.{i}") for i, part in enumerate(content))
    if not isinstance(content, str) or not isinstance(thoughts, str | None):
        raise RequestError(f"{where}.content: expected text", param="messages")
    role = "system" if message["role"] == "developer" else message["role"]
    return {"role": role, "content": content, **({"reasoning_content": thoughts} if thoughts else {})}


def _part(part: object, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        raise RequestError(f"{where}: expected text; this server supports no other content", param="messages")
    check_fields(part, ("type", "text"), {}, f"{where}.")
    return part["text"]


def _template(document: Mapping[str, object], messages: list[Any]) -> ChatTemplateOptions:
    continues = boolean(document, "continue_final_message", default=False)
    prompt = boolean(document, "add_generation_prompt", default=not continues)
    if continues and prompt:
        raise RequestError(
            "continue_final_message and add_generation_prompt exclude each other: the first continues the last "
            "message, the second begins a new one; set one of them to false",
            param="continue_final_message",
        )
    if continues and messages[-1].get("role") != "assistant":
        raise RequestError(
            "continue_final_message: it continues the last message, so the role of that message must be assistant",
            param="continue_final_message",
        )
    variables = document.get("chat_template_kwargs")
    if variables is not None and not isinstance(variables, dict):
        raise RequestError("chat_template_kwargs: expected an object", param="chat_template_kwargs")
    return ChatTemplateOptions(prompt, continues, variables or {})


def _chat_logprobs(document: Mapping[str, object]) -> int | None:
    wanted = boolean(document, "logprobs", default=False, hint="; set the number of alternatives with top_logprobs")
    top = int(number(document, "top_logprobs", 0, 0, MAX_TOP_LOGPROBS, whole=True))
    if top and not wanted:
        raise RequestError("top_logprobs: requires logprobs to be true", param="top_logprobs")
    return top if wanted else None


def _count(document: Mapping[str, object], name: str, *, least: int) -> int | None:
    return None if document.get(name) is None else int(number(document, name, 1, least, 2**31, whole=True))


def _completion_request(document: Mapping[str, object], **fields: Any) -> CompletionRequest:
    temperature = number(document, "temperature", 1.0, 0.0, 100.0)
    stream = boolean(document, "stream", default=False)
    return CompletionRequest(
        n=int(number(document, "n", 1, 1, MAX_CHOICES, whole=True)),
        temperature=0.0 if temperature < GREEDY_BELOW else float(temperature),
        top_p=float(number(document, "top_p", 1.0, 1e-6, 1.0)),
        top_k=max(0, int(number(document, "top_k", 0, -1, 2**31, whole=True))),
        seed=None if document.get("seed") is None else int(number(document, "seed", 0, -(2**63), 2**63, whole=True)),
        stop=stop_strings(document.get("stop")),
        stop_token_ids=stop_token_ids(document.get("stop_token_ids")),
        stream=stream,
        stream_usage=_stream_usage(document.get("stream_options"), stream),
        skip_special_tokens=boolean(document, "skip_special_tokens", default=False),
        **fields,
    )


def _stream_usage(options: object, stream: bool) -> bool:
    if options is None:
        return False
    if not isinstance(options, dict) or not stream:
        raise RequestError("stream_options: expected an object, in a request with stream true", param="stream_options")
    check_fields(options, validation.STREAM_OPTIONS_FIELDS, validation.UNSUPPORTED_STREAM_OPTIONS, "stream_options.")
    return boolean(options, "include_usage", default=False)
