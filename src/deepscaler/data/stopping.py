"""All tokens that end a completion, among them what the chat template writes after an assistant's turn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from deepscaler.data.templates import RENDER_LIMIT_S, render_text
from deepscaler.data.time_limit import map_within

QUESTION, ANSWER = "Name a number.", "Fortytwo"


def all_stop_ids(configured: Iterable[int], tokenizer: Any, more: Iterable[int] = ()) -> frozenset[int]:
    """configured: of the model's files. more: of the settings (`stop_token_ids`)."""
    return frozenset({*configured, *turn_end_ids(tokenizer), *more})


def turn_end_ids(tokenizer: Any) -> frozenset[int]:
    """The id of the special token that the template writes after an answer; empty where it writes none.

    Bases with ChatML often name `<|endoftext|>` as EOS although their template ends a turn with `<|im_end|>`. Raises
    ValueError for a template that cannot be used at all.
    """
    render_text(tokenizer, QUESTION)  # refuses what may never end
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWER}]

    def render(conversation: list[dict[str, str]]) -> str:
        return tokenizer.apply_chat_template(conversation, add_generation_prompt=False, tokenize=False)

    try:
        text = map_within(RENDER_LIMIT_S, render, [messages])[0]
    except Exception:  # a template for questions only, whose own code refuses an answer: it ends no turn
        return frozenset()
    _, found, rest = text.rpartition(ANSWER)
    ids = tokenizer(rest.lstrip(), add_special_tokens=False)["input_ids"] if found else []
    return frozenset(ids[:1]) & tokenizer.added_tokens_decoder.keys()
