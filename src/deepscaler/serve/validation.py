"""Request validation: the fields a request may have, and the types and limits of their values.

Names and meanings are those of OpenAI's API and of vLLM's extensions. docs/serving.md lists them. An unknown field is
refused with the nearest known name, never ignored.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping

SHARED_FIELDS = frozenset({
    "model", "n", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stop_token_ids", "logprobs",
    "stream", "stream_options", "skip_special_tokens", "add_special_tokens",
})  # fmt: skip
CHAT_FIELDS = SHARED_FIELDS | {
    "messages", "max_completion_tokens", "top_logprobs", "add_generation_prompt", "continue_final_message",
    "chat_template_kwargs",
}  # fmt: skip
COMPLETION_FIELDS = SHARED_FIELDS | {"prompt", "echo"}
# Accepted and ignored: they identify the client or concern billing and caching, and never change a completion.
IGNORED_FIELDS = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "request_id", "cache_salt", "priority",
})  # fmt: skip
# Not implemented: accepted only with one of these values, which change nothing.
UNSUPPORTED_FIELDS: dict[str, tuple[object, ...]] = {
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "structured_outputs": (None, {}),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None, []),
    "guided_grammar": (None,),
    "guided_decoding_backend": (None,),
    "guided_whitespace_pattern": (None,),
    "logit_bias": (None, {}),
    "logits_processors": (None, []),
    "allowed_token_ids": (None,),
    "bad_words": (None, []),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "length_penalty": (None, 1),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "ignore_eos": (None, False),
    "use_beam_search": (None, False),
    "best_of": (None, 1),
    "suffix": (None, ""),
    "include_stop_str_in_output": (None, False),
    "spaces_between_special_tokens": (None, True),
    "truncate_prompt_tokens": (None,),
    "prompt_logprobs": (None,),
    "return_tokens_as_token_ids": (None, False),
    "return_token_ids": (None, False),
    "prompt_embeds": (None,),
    "chat_template": (None,),
    "documents": (None, []),
    "mm_processor_kwargs": (None, {}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "include_reasoning": (None, True),
    "thinking_token_budget": (None,),
    "verbosity": (None,),
    "web_search_options": (None,),
    "kv_transfer_params": (None,),
    "vllm_xargs": (None, {}),
}
MESSAGE_FIELDS = frozenset({"role", "content", "reasoning_content"})
UNSUPPORTED_MESSAGE_FIELDS: dict[str, tuple[object, ...]] = {
    "name": (None,),
    "reasoning": (None,),
    "refusal": (None,),
    "annotations": (None, []),
    "audio": (None,),
    "tool_calls": (None, []),
    "tool_call_id": (None,),
    "function_call": (None,),
}
STREAM_OPTIONS_FIELDS = frozenset({"include_usage"})
UNSUPPORTED_STREAM_OPTIONS: dict[str, tuple[object, ...]] = {
    "continuous_usage_stats": (None, False),
    "include_obfuscation": (None, True, False),
}
MAX_STOPS = 16
MAX_STOP_CHARACTERS = 200
MAX_STOP_IDS = 64


class RequestError(Exception):
    """An error response: HTTP status, and OpenAI's `type`, `param` and `code`."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, object]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_exceeded" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def check_fields(
    document: Mapping[str, object], known: Iterable[str], unsupported: Mapping[str, tuple[object, ...]], where: str = ""
) -> None:
    """Raises RequestError for a field that is unknown, or unsupported with its value. where: prefix of each name."""
    known = frozenset(known)
    for name, value in document.items():
        if name in known:
            continue
        path = where + name
        if name not in unsupported:
            raise RequestError(
                f"{path:.100}: no such field{nearest(name, known | unsupported.keys())}", param=path[:100]
            )
        if not any(
            value == other and isinstance(value, bool) == isinstance(other, bool) for other in unsupported[name]
        ):
            shown = json.dumps(value)
            raise RequestError(f"{path}: {shown:.60} is not supported by this server; leave it out", param=path)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or an empty string when no known name is similar."""
    found = difflib.get_close_matches(name[:100], sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def check_other_endpoint(
    document: Mapping[str, object], known: Iterable[str], others: Iterable[str], path: str
) -> None:
    """Raises RequestError for a field of the other endpoint, whose route is `path`."""
    for name in document:
        if name not in known and name in others:
            raise RequestError(f"{name}: this endpoint has no such field; it belongs to POST {path}", param=name)


def boolean(document: Mapping[str, object], name: str, *, default: bool, hint: str = "") -> bool:
    """True or false; null gives the default."""
    value = document.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise RequestError(f"{name}: expected true or false, got {value!r:.40}{hint}", param=name)
    return value


def number(
    document: Mapping[str, object], name: str, default: float, least: float, most: float, *, whole: bool = False
) -> float:
    """A number from `least` to `most`; null gives the default."""
    value = document.get(name)
    if value is None:
        return default
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value <= most:
        kind = "a whole number" if whole else "a number"
        raise RequestError(f"{name}: expected {kind} from {least:g} to {most:g}, got {value!r:.40}", param=name)
    return value


def stop_strings(value: object) -> tuple[str, ...]:
    stops = [] if value is None else [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise RequestError(f"stop: expected a string or a list of at most {MAX_STOPS} strings", param="stop")
    for stop in stops:
        if not isinstance(stop, str) or not 0 < len(stop) <= MAX_STOP_CHARACTERS:
            raise RequestError(f"stop: expected strings of 1 to {MAX_STOP_CHARACTERS} characters", param="stop")
    return tuple(stops)


def stop_token_ids(value: object) -> tuple[int, ...]:
    ids = [] if value is None else value
    if not isinstance(ids, list) or len(ids) > MAX_STOP_IDS or not all(type(i) is int and i >= 0 for i in ids):
        raise RequestError(
            f"stop_token_ids: expected a list of at most {MAX_STOP_IDS} token ids", param="stop_token_ids"
        )
    return tuple(ids)
