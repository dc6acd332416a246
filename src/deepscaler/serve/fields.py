"""Which fields a request may have. Everything else is refused with the nearest known name, never ignored.

Names and meanings are those of OpenAI's API and of vLLM's extensions of it. docs/serving.md lists them.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping

SAMPLING = frozenset({
    "model", "n", "max_tokens", "temperature", "top_p", "top_k", "seed", "stop", "stop_token_ids", "logprobs",
    "stream", "stream_options", "skip_special_tokens", "add_special_tokens",
})  # fmt: skip
CHAT = SAMPLING | {
    "messages", "max_completion_tokens", "top_logprobs", "add_generation_prompt", "continue_final_message",
    "chat_template_kwargs",
}  # fmt: skip
COMPLETION = SAMPLING | {"prompt", "echo"}
# They say who asks or how the service is billed and cached: no value of theirs changes a completion.
WITHOUT_EFFECT = frozenset({
    "user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
    "request_id", "cache_salt", "priority",
})  # fmt: skip
# Not implemented: taken only with a value that changes nothing.
NEUTRAL: dict[str, tuple[object, ...]] = {
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
MESSAGE = frozenset({"role", "content", "reasoning_content"})
MESSAGE_NEUTRAL: dict[str, tuple[object, ...]] = {
    "name": (None,),
    "reasoning": (None,),
    "refusal": (None,),
    "annotations": (None, []),
    "audio": (None,),
    "tool_calls": (None, []),
    "tool_call_id": (None,),
    "function_call": (None,),
}
STREAM_OPTIONS = frozenset({"include_usage"})
STREAM_OPTIONS_NEUTRAL: dict[str, tuple[object, ...]] = {
    "continuous_usage_stats": (None, False),
    "include_obfuscation": (None, True, False),
}


class RequestError(Exception):
    """A request that cannot be served: HTTP status, and OpenAI's `type`, `param` and `code`."""

    def __init__(self, message: str, *, param: str | None = None, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, object]:
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_exceeded" if self.status == 429 else kind
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


def check_fields(
    document: Mapping[str, object], known: Iterable[str], neutral: Mapping[str, tuple[object, ...]], where: str = ""
) -> None:
    """Raises RequestError for a field that is unknown, or not implemented and not neutral. where: before each name."""
    known = frozenset(known)
    for name, value in document.items():
        if name in known:
            continue
        path = where + name
        if name not in neutral:
            raise RequestError(f"{path:.100}: no such field{nearest(name, known | neutral.keys())}", param=path[:100])
        if not any(value == other and isinstance(value, bool) == isinstance(other, bool) for other in neutral[name]):
            shown = json.dumps(value)
            raise RequestError(f"{path}: {shown:.60} is not supported by this server; leave it out", param=path)


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing when no known name is near."""
    found = difflib.get_close_matches(name[:100], sorted(known), n=1, cutoff=0.7)
    return f"; did you mean {found[0]}?" if found else ""


def check_other_endpoint(
    document: Mapping[str, object], known: Iterable[str], others: Iterable[str], path: str
) -> None:
    """Raises RequestError for a field that belongs to the other endpoint, which is at `path`."""
    for name in document:
        if name not in known and name in others:
            raise RequestError(f"{name}: no field of this request; it belongs to POST {path}", param=name)
