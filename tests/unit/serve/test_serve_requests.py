"""What a request may say: every field is known, of its type and within its limits, or the request is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from deepscaler.serve import validation
from deepscaler.serve.requests import CompletionRequest, RequestError, parse_chat, parse_completion

MESSAGES = [{"role": "user", "content": "1+1"}]


def chat(**body: Any) -> CompletionRequest:
    return parse_chat({"model": "m", "messages": MESSAGES, **body}, "m")


def completion(**body: Any) -> CompletionRequest:
    return parse_completion({"model": "m", "prompt": "1+1", **body}, "m")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"temperatur": 0.1}, "temperatur: no such field; did you mean temperature?"),
        ({"max_token": 3}, "did you mean max_tokens?"),
        ({"chat_template_kwarg": {}}, "did you mean chat_template_kwargs?"),
        ({"zzz": 1}, "zzz: no such field"),
        ({"guided_json": {"type": "object"}}, "guided_json: .* is not supported"),
        ({"structured_outputs": {"regex": "a"}}, "is not supported"),
        ({"ignore_eos": True}, "ignore_eos: true is not supported"),
        ({"ignore_eos": 0}, "ignore_eos: 0 is not supported"),
        ({"frequency_penalty": 1}, "frequency_penalty"),
        ({"min_p": 0.1}, "min_p"),
        ({"prompt": "x"}, "belongs to POST /v1/completions"),
        ({"echo": True}, "belongs to POST /v1/completions"),
        ({"stream": "true"}, "stream: expected true or false"),
        ({"stream": True, "stream_options": {"include_usag": True}}, "did you mean include_usage?"),
        ({"stream_options": {"include_usage": True}}, "with stream true"),
        ({"logprobs": 3}, "expected true or false.*top_logprobs"),
        ({"top_logprobs": 3}, "requires logprobs to be true"),
        ({"logprobs": True, "top_logprobs": 21}, "from 0 to 20"),
        ({"stop_token_ids": [-1]}, "stop_token_ids"),
        ({"stop_token_ids": [True]}, "stop_token_ids"),
        ({"stop_token_ids": 7}, "stop_token_ids"),
        ({"max_tokens": 0}, "from 1"),
        ({"max_completion_tokens": 0, "max_tokens": 5}, "max_completion_tokens: expected a whole number"),
        ({"temperature": float("nan")}, "temperature: expected a number"),
        ({"continue_final_message": True}, "role of that message must be assistant"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "exclude each other"),
        ({"chat_template_kwargs": [1]}, "expected an object"),
        ({"messages": [{"role": "user", "contents": "x"}]}, "contents: no such field; did you mean content?"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages.0.name"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, "content.0: expected text"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "no other content"),
    ],
)
def test_what_a_chat_cannot_have_is_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        chat(**body)
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"messages": MESSAGES}, "belongs to POST /v1/chat/completions"),
        ({"max_completion_tokens": 5}, "belongs to POST /v1/chat/completions"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"max_tokens": 0}, "from 1"),
        ({"logprobs": True}, "a whole number from 0 to 20"),
        ({"prompt": ["a", 3]}, "prompt: expected"),
        ({"prompt": ["a", ""]}, "expected a non-empty text"),
        ({"prompt": [[1], [True]]}, "prompt: expected"),
        ({"prompt": [[1], [[2]]]}, "prompt: expected"),
        ({"prompt": []}, "expected a non-empty text"),
    ],
)
def test_what_a_completion_cannot_have_is_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        completion(**body)


def test_fields_without_effect_and_neutral_values_are_taken() -> None:
    without_effect = dict.fromkeys(validation.IGNORED_FIELDS, "x")
    for parse in (chat, completion):
        assert parse(**without_effect) == parse()
        for name, values in validation.UNSUPPORTED_FIELDS.items():
            for value in values:
                assert parse(**{name: value}) == parse()


def test_null_is_the_default_of_every_field() -> None:
    for name in validation.CHAT_FIELDS - {"model", "messages"}:
        assert chat(**{name: None}) == chat()
    for name in validation.COMPLETION_FIELDS - {"model", "prompt"}:
        assert completion(**{name: None}) == completion()


def test_the_longer_name_of_the_budget_goes_first_and_null_means_the_other() -> None:
    assert chat(max_completion_tokens=None, max_tokens=7).max_tokens == 7
    assert chat(max_completion_tokens=5, max_tokens=7).max_tokens == 5
    assert chat(max_completion_tokens=None, max_tokens=None).max_tokens is None


@pytest.mark.parametrize("temperature", [1e-300, 1e-45, 1e-39, 1e-6, 0])
def test_a_temperature_too_small_to_divide_by_is_greedy(temperature: float) -> None:
    assert chat(temperature=temperature).temperature == 0


def test_prompts_are_texts_ids_or_lists_of_either() -> None:
    assert completion(prompt=[5, 6]).prompts == ((5, 6),)
    assert completion(prompt=[[5, 6], [7]]).prompts == ((5, 6), (7,))
    assert completion(prompt=["a", "b"]).prompts == ("a", "b")
    assert completion(prompt=["a", [1]]).prompts == ("a", (1,))


def test_nothing_need_be_sampled_when_the_prompt_is_echoed() -> None:
    request = completion(echo=True, max_tokens=0, logprobs=0)
    assert (request.echo, request.max_tokens, request.logprobs) == (True, 0, 0)


def test_reasoning_of_an_earlier_turn_reaches_the_template_under_its_own_name() -> None:
    turn = {"role": "assistant", "content": "2", "reasoning_content": "so", "tool_calls": None, "refusal": None}
    request = chat(messages=[*MESSAGES, turn, {"role": "user", "content": "3"}])
    assert request.messages[1] == {"role": "assistant", "content": "2", "reasoning_content": "so"}


def test_the_page_on_serving_names_every_field() -> None:
    page = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    for name in validation.CHAT_FIELDS | validation.COMPLETION_FIELDS | validation.IGNORED_FIELDS:
        assert re.search(rf"`(stream_options\.)?{name}[`.]", page), name
