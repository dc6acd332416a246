"""From what was asked to token ids: the chat template, the tokenizer, and limits that hold before either works long."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deepscaler.data.templates import MAX_NUMBER, OPEN_THINK, encode_rendered, render_messages, template_variables
from deepscaler.observability.counts import counted
from deepscaler.serve.fields import RequestError, nearest
from deepscaler.serve.requests import Asked, Template
from deepscaler.types import IntArray

PROBED_CHARACTERS = 8  # per token of context; text has three or four to a token
_CLOSE_THINK = "</think>"


@dataclass(frozen=True, slots=True)
class Prompt:
    """text: as rendered or given, None where ids were given. thinking: it ends inside `<think>`."""

    ids: IntArray
    text: str | None
    thinking: bool = False


@dataclass(frozen=True)
class Encoder:
    """capacity: most tokens of prompt and completion. num_ids: token ids that model and tokenizer know."""

    tokenizer: Any
    capacity: int
    num_ids: int
    longest_token: int = field(init=False)  # characters

    def __post_init__(self) -> None:
        longest = max(map(len, self.tokenizer.get_vocab()), default=1)
        object.__setattr__(self, "longest_token", longest)

    def prompts(self, asked: Asked) -> list[Prompt]:
        """Raises RequestError, for a text that cannot fit without tokenizing all of it."""
        if asked.is_chat:
            text = self._rendered(asked)
            return [Prompt(self._ids(text, asked), text, _opened_thinking(text, asked))]
        return [self._prompt(prompt, asked) for prompt in asked.prompts]

    def _prompt(self, prompt: str | tuple[int, ...], asked: Asked) -> Prompt:
        if isinstance(prompt, str):
            return Prompt(self._ids(prompt, asked), prompt)
        if len(prompt) > self.capacity:
            raise self._too_long(counted(len(prompt), "token"), "prompt")
        if max(prompt) >= self.num_ids or min(prompt) < 0:
            raise RequestError(f"prompt: token ids go from 0 to {self.num_ids - 1}", param="prompt")
        return Prompt(np.array(prompt, dtype=np.int32), None)

    def _ids(self, text: str, asked: Asked) -> IntArray:
        param = "messages" if asked.is_chat else "prompt"
        if len(text) > self.capacity * self.longest_token:
            raise self._too_long(
                f"{counted(len(text), 'character')}, which are at least "
                f"{counted(len(text) // self.longest_token, 'token')}",
                param,
            )
        probed = self.capacity * PROBED_CHARACTERS
        # Where a text is cut changes its last few tokens only, so twice the context cannot come from there.
        if len(text) > probed and len(self._encoded(text[:probed], asked)) > 2 * self.capacity:
            raise self._too_long(f"more than {counted(2 * self.capacity, 'token')}", param)
        ids = self._encoded(text, asked)
        if not ids:
            raise RequestError(f"{param}: no token", param=param)
        if max(ids) >= self.num_ids:
            raise RequestError(
                f"{param}: the tokenizer makes token {max(ids)} of it, and the model has {self.num_ids}", param=param
            )
        return np.array(ids, dtype=np.int32)

    def _encoded(self, text: str, asked: Asked) -> list[int]:
        if asked.is_chat and not asked.add_special_tokens:  # contents may hold the text of control tokens
            return encode_rendered(self.tokenizer, [text])[0]
        return self.tokenizer(text, add_special_tokens=asked.add_special_tokens)["input_ids"]

    def _rendered(self, asked: Asked) -> str:
        how = asked.template
        _check_variables(self.tokenizer, how)
        options = {
            "add_generation_prompt": how.add_generation_prompt,
            "continue_final_message": how.continue_final_message,
        }
        try:
            return render_messages(self.tokenizer, asked.messages, {**how.variables, **options})
        except ValueError as error:
            raise RequestError(f"{error!s:.1000}", param="messages") from error

    def _too_long(self, how_long: str, param: str) -> RequestError:
        return RequestError(
            f"this model's maximum context length is {self.capacity} tokens; the prompt has {how_long}; shorten it",
            param=param,
            code="context_length_exceeded",
        )


def _check_variables(tokenizer: Any, how: Template) -> None:
    """Raises RequestError for a variable that the template does not read, and so would be without any effect."""
    if not how.variables:
        return
    known = template_variables(tokenizer)
    for name, value in how.variables.items():
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
    """Of a loop or a repetition that a template makes of it."""
    if isinstance(value, dict | list):
        return any(map(_holds_large_number, value.values() if isinstance(value, dict) else value))
    return isinstance(value, int | float) and abs(value) > MAX_NUMBER


def _opened_thinking(text: str, asked: Asked) -> bool:
    """Whether what the model writes next is reasoning."""
    if not asked.template.continue_final_message:
        return text.rstrip().endswith(OPEN_THINK)
    last = text[text.rfind(OPEN_THINK) :] if OPEN_THINK in text else ""
    return OPEN_THINK in asked.messages[-1]["content"] and _CLOSE_THINK not in last
