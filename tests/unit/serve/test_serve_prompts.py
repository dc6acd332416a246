"""Prompts of requests: what the template is given, and what is refused before it costs anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepscaler.data.prompt_format import PromptFormat
from deepscaler.modeling.load import load_tokenizer
from deepscaler.serve.prompts import PromptEncoder
from deepscaler.serve.requests import RequestError, parse_chat, parse_completion
from tiny_run import write_model

CAPACITY = 100
THINKING = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>"
    "{% if enable_thinking is not defined or enable_thinking %}<think>"
    "{% endif %}{% endif %}{{ 'x' * padding if padding else '' }}"
)


class Counting:
    """A tokenizer that counts the characters it is given."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, self.characters = tokenizer, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str, **options: Any) -> Any:
        self.characters += len(text)
        return self._tokenizer(text, **options)


@pytest.fixture
def encoder(tmp_path: Path) -> PromptEncoder:
    tokenizer = load_tokenizer(write_model(tmp_path / "model"))
    tokenizer.chat_template = THINKING
    return PromptEncoder(Counting(tokenizer), CAPACITY, len(tokenizer))


def render(encoder: PromptEncoder, *contents: str, **body: Any) -> tuple[str, bool]:
    roles = ["user", "assistant"] * len(contents)
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    (prompt,) = encoder.prompts(parse_chat({"model": "m", "messages": messages, **body}, "m"))
    assert prompt.text is not None
    return prompt.text, prompt.thinking


def test_variables_of_the_template_reach_it(encoder: PromptEncoder) -> None:
    assert render(encoder, "1") == ("<user>1<assistant><think>", True)
    assert render(encoder, "1", chat_template_kwargs={"enable_thinking": False}) == ("<user>1<assistant>", False)
    assert render(encoder, "1", add_generation_prompt=False) == ("<user>1", False)


def test_what_the_server_was_started_with_holds_for_chats_that_say_nothing_else(encoder: PromptEncoder) -> None:
    started = PromptFormat(system_prompt="S", template={"enable_thinking": False})
    made = PromptEncoder(encoder.tokenizer, CAPACITY, encoder.num_ids, started)
    text, thinking = render(made, "1")
    assert "S" in text and text.endswith("<user>1<assistant>") and not thinking
    assert render(made, "1", chat_template_kwargs={"enable_thinking": True})[1]
    own = [{"role": "system", "content": "T"}, {"role": "user", "content": "1"}]
    (prompt,) = made.prompts(parse_chat({"model": "m", "messages": own}, "m"))
    assert prompt.text is not None and "T" in prompt.text and "S" not in prompt.text


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"enable_thinkin": False}, r"did you mean enable_thinking\?.*it has: enable_thinking, padding"),
        ({"messages": []}, "no such variable"),
        ({"chat_template": "x"}, "no such variable"),
        ({"tokenize": True}, "no such variable"),
        ({"padding": 10**9}, "number above"),
        ({"padding": [[10**9]]}, "number above"),
    ],
)
def test_variables_that_the_template_does_not_read_are_refused(
    encoder: PromptEncoder, variables: dict[str, Any], words: str
) -> None:
    with pytest.raises(RequestError, match=words):
        render(encoder, "1", chat_template_kwargs=variables)


def test_a_message_is_gone_on_with_where_it_ended(encoder: PromptEncoder) -> None:
    text, thinking = render(encoder, "1", "so it is", continue_final_message=True)
    assert (text, thinking) == ("<user>1<assistant>so it is", False)
    assert render(encoder, "1", "<think>so", continue_final_message=True)[1]
    assert not render(encoder, "1", "<think>so</think>2", continue_final_message=True)[1]


@pytest.mark.parametrize("unit", ["1", "ab ", "é→", " "])
def test_a_prompt_that_cannot_fit_is_refused_before_it_is_tokenized(encoder: PromptEncoder, unit: str) -> None:
    long = unit * (2_000_000 // len(unit))
    for asked in (
        parse_completion({"model": "m", "prompt": long}, "m"),
        parse_chat({"model": "m", "messages": [{"role": "user", "content": long}]}, "m"),
    ):
        with pytest.raises(RequestError, match="maximum context length is 100 tokens") as caught:
            encoder.prompts(asked)
        assert caught.value.code == "context_length_exceeded"
    assert encoder.tokenizer.characters <= 2 * 8 * CAPACITY


def test_a_prompt_somewhat_too_long_is_refused_from_its_beginning(encoder: PromptEncoder) -> None:
    with pytest.raises(RequestError, match="more than 200 tokens"):
        encoder.prompts(parse_completion({"model": "m", "prompt": "1" * 1000}, "m"))
    assert encoder.tokenizer.characters <= 8 * CAPACITY
    with pytest.raises(RequestError, match="the prompt has 101 tokens"):
        encoder.prompts(parse_completion({"model": "m", "prompt": [1] * 101}, "m"))


@pytest.mark.parametrize("ids", [[110], [-1], [2**31]])
def test_ids_that_the_model_does_not_have_are_refused(encoder: PromptEncoder, ids: list[int]) -> None:
    with pytest.raises(RequestError, match=f"from 0 to {encoder.num_ids - 1}"):
        encoder.prompts(parse_completion({"model": "m", "prompt": ids}, "m"))


def test_ids_that_only_the_tokenizer_has_are_refused(encoder: PromptEncoder) -> None:
    smaller = PromptEncoder(encoder.tokenizer, CAPACITY, max(encoder.tokenizer("1")["input_ids"]))
    with pytest.raises(RequestError, match="the model has"):
        smaller.prompts(parse_completion({"model": "m", "prompt": "1"}, "m"))
