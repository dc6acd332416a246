"""Fields of a request that are left out or added, and contents that come as lists of parts."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepscaler.config.evaluation import ClientSection, load_evaluation
from deepscaler.config.schema import RecipeError
from deepscaler.engines.openai.client import OpenAIClient
from deepscaler.engines.openai.probe import probe_sampling
from deepscaler.engines.openai.reply import MalformedReplyError, StreamedReply, parse_reply
from deepscaler.types import SamplingParams
from openai_clients import chat_requests, echo
from scripted_server import ScriptedServer
from server_script import Script

OMITTED = ("seed", "top_p", "n")


def test_omitted_fields_are_never_sent_and_extra_ones_always() -> None:
    section = ClientSection(omit=OMITTED, extra_body={"chat_template_kwargs": {"enable_thinking": False}})
    with ScriptedServer(Script(echo)) as server:
        client = OpenAIClient(server.url, "scripted", SamplingParams(100, 0.6, 0.95, seed=1), section)
        warnings = probe_sampling(client, "?")
        list(client.complete(chat_requests(3)))
        bodies = server.bodies
    assert len(bodies) == 1 + 3  # one probe: nothing about seeds and top_p can be asked
    for body in bodies:
        assert not body.keys() & set(OMITTED) and body["temperature"] > 0
        assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert [w.split()[0] for w in warnings] == ["seed", "top_p"] and "client.omit" in warnings[0]


def test_a_mistake_in_the_options_is_one_message() -> None:
    recipe = load_evaluation(None, ["client.extra_body.reasoning.effort=low", 'client.omit=["seed"]'])
    assert recipe.client.extra_body == {"reasoning": {"effort": "low"}} and recipe.client.omit == ("seed",)
    with pytest.raises(RecipeError, match=r"extra_body.temperature: has a setting .* set sampling.temperature instead"):
        load_evaluation(None, ["client.extra_body.temperature=1"])
    with pytest.raises(RecipeError, match=r"client.omit.0: expected one of 'seed', .* given \"sed\""):
        load_evaluation(None, ['client.omit=["sed"]'])


def reply_of(content: Any, **more: Any) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


PARTS = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    {"type": "text", "text": "It is "},
    {"type": "text", "text": "2."},
]


def test_a_list_of_parts_is_its_text_with_thoughts_before() -> None:
    assert parse_reply(reply_of(PARTS)).text == "<think>\nhm\n</think>\nIt is 2."
    assert parse_reply(reply_of(PARTS[1:], reasoning="so")).text == "<think>\nso\n</think>\nIt is 2."
    assert parse_reply(reply_of([])).text == ""
    for wrong in ([7], [{"type": "image_url", "image_url": "x"}], {"type": "text"}):
        with pytest.raises(MalformedReplyError, match="not text"):
            parse_reply(reply_of(wrong))


def test_pieces_of_a_stream_may_be_lists_of_parts() -> None:
    stream = StreamedReply()
    for part in PARTS:
        event = {"choices": [{"index": 0, "delta": {"content": [part]}}]}
        stream.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    stream.feed(b"data: [DONE]\n\n")
    assert stream.reply().text == parse_reply(reply_of(PARTS)).text
