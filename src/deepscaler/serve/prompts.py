"""Prompts of a request as token ids: chat template, tokenizer, and length limits that hold before either runs long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.templates import MAX_NUMBER, OPEN_THINK, encode_rendered, render_messages, template_variables
from deepscaler.observability.counts import counted
from deepscaler.serve.requests import ChatTemplateOptions, CompletionRequest
from deepscaler.serve.validation import RequestError, nearest
from deepscaler.types import IntArray

PROBED_CHARACTERS = 8  # per token of context; a token has three or four characters on average
_CLOSE_THINK = "</think>"


@dataclass(frozen=True, slots=True)
class Prompt:
    """text: as rendered or given, None where token ids were given. thinking: the text ends inside `<think>`."""

    ids: IntArray
    text: str | None
    thinking: bool = False


@dataclass(frozen=True)
class PromptEncoder:
    """capacity: maximum tokens of prompt and completion. num_ids: number of token ids that model and tokenizer have.

    prompt_format: system prompt of conversations without one, and template variables that a request may change.
    """

    tokenizer: Any
    capacity: int
    num_ids: int
    prompt_format: PromptFormat = field(default_factory=PromptFormat)
    longest_token: int = field(init=False)  # characters

    def __post_init__(self) -> None:
        longest = max(map(len, self.tokenizer.get_vocab()), default=1)
        object.__setattr__(self, "longest_token", longest)

    def prompts(self, request: CompletionRequest) -> list[Prompt]:
        """Raises RequestError; a text that cannot fit is refused without tokenizing all of it."""
        if request.is_chat:
            text = self._rendered(request)
            return [Prompt(self._ids(text, request), text, _opened_thinking(text, request))]
        return [self._prompt(prompt, request) for prompt in request.prompts]

    def _prompt(self, prompt: str | tuple[int, ...], request: CompletionRequest) -> Prompt:
        if isinstance(prompt, str):
            return Prompt(self._ids(prompt, request), prompt)
        if len(prompt) > self.capacity:
            raise self._too_long(counted(len(prompt), "token"), "prompt")
        if max(prompt) >= self.num_ids or min(prompt) < 0:
            raise RequestError(f"prompt: token ids range from 0 to {self.num_ids - 1}", param="prompt")
        return Prompt(np.array(prompt, dtype=np.int32), None)

    def _ids(self, text: str, request: CompletionRequest) -> IntArray:
        param = "messages" if request.is_chat else "prompt"
        if len(text) > self.capacity * self.longest_token:
            raise self._too_long(
                f"{counted(len(text), 'character')}, which are at least "
                f"{counted(len(text) // self.longest_token, 'token')}",
                param,
            )
        probed = self.capacity * PROBED_CHARACTERS
        # Truncating a text changes its last few tokens only, so it cannot add as many tokens as the context has.
        if len(text) > probed and len(self._encoded(text[:probed], request)) > 2 * self.capacity:
            raise self._too_long(f"more than {counted(2 * self.capacity, 'token')}", param)
        ids = self._encoded(text, request)
        if not ids:
            raise RequestError(f"{param}: it has no tokens; send some text", param=param)
        if max(ids) >= self.num_ids:
            raise RequestError(
                f"{param}: the tokenizer gives token id {max(ids)}, and the model has {self.num_ids} token ids; leave "
                "out the special token",
                param=param,
            )
        return np.array(ids, dtype=np.int32)

    def _encoded(self, text: str, request: CompletionRequest) -> list[int]:
        if request.is_chat and not request.add_special_tokens:  # contents may hold the text of control tokens
            return encode_rendered(self.tokenizer, [text])[0]
        return self.tokenizer(text, add_special_tokens=request.add_special_tokens)["input_ids"]

    def _rendered(self, request: CompletionRequest) -> str:
        template = request.template
        _check_variables(self.tokenizer, template)
        flags = {
            "add_generation_prompt": template.add_generation_prompt,
            "continue_final_message": template.continue_final_message,
        }
        variables = {**self.prompt_format.template, **template.variables}
        messages = self.prompt_format.with_system_prompt(request.messages)
        try:
            return render_messages(self.tokenizer, messages, {**variables, **flags})
        except ValueError as error:
            raise RequestError(f"{error!s:.1000}", param="messages") from error

    def _too_long(self, how_long: str, param: str) -> RequestError:
        return RequestError(
            f"this model's maximum context length is {self.capacity} tokens; the prompt has {how_long}; shorten it",
            param=param,
            code="context_length_exceeded",
        )


def _check_variables(tokenizer: Any, options: ChatTemplateOptions) -> None:
    """Raises RequestError for a variable that the template does not read."""
    if not options.variables:
        return
    known = template_variables(tokenizer)
    for name, value in options.variables.items():
        where = f"chat_template_kwargs.{name:.100}"
        if name not in known:
            listed = ", ".join(sorted(known)) or "none"
            raise RequestError(
                f"{where}: the model's chat template has no such variable{nearest(name, known)} (it has: {listed})",
                param="chat_template_kwargs",
            )
        if _holds_large_number(value):
            raise RequestError(f"{where}: holds a number above {MAX_NUMBER}", param="chat_template_kwargs")


def _holds_large_number(value: object) -> bool:
    """Whether `value` holds a number that could make a loop or repetition of the template too long."""
    if isinstance(value, dict | list):
        return any(map(_holds_large_number, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and abs(value) > MAX_NUMBER


def _opened_thinking(text: str, request: CompletionRequest) -> bool:
    """Whether the prompt ends inside `<think>`, so that the completion begins with reasoning."""
    if not request.template.continue_final_message:
        return text.rstrip().endswith(OPEN_THINK)
    last = text[text.rfind(OPEN_THINK) :] if OPEN_THINK in text else ""
    return OPEN_THINK in request.messages[-1]["content"] and _CLOSE_THINK not in last
