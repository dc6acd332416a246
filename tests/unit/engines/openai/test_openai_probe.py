"""What a server is found to be before the first sample: its model, key, context, and the settings that it ignores."""

from __future__ import annotations

import json

import pytest

from deepscaler.engines.openai.http import EndpointError
from deepscaler.engines.openai.probe import ReplyMonitor, check_server, probe_sampling
from deepscaler.engines.openai.reply import parse_reply
from deepscaler.types import FinishReason, SamplingParams
from openai_clients import chat_requests, client, echo, reply
from scripted_server import ScriptedServer
from server_script import Faults, Script


def test_the_wrong_model_names_those_there_are() -> None:
    with ScriptedServer(Script(echo)) as server:
        with pytest.raises(EndpointError, match="no model 'other'; it serves scripted"):
            check_server(client(server, model="other"))
        with pytest.raises(EndpointError, match=r"does not exist.*no model 'other'"):
            list(client(server, model="other").complete(chat_requests(1)))


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(Script(echo, key="sk-right")) as server:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(EndpointError, match=r"401.*OPENAI_API_KEY, is not set"):
            check_server(client(server))
        monkeypatch.setenv("MY_KEY", "sk-wrong")
        with pytest.raises(EndpointError, match="MY_KEY, was sent and is not accepted") as caught:
            check_server(client(server, api_key_env="MY_KEY"))
        assert "sk-wrong" not in str(caught.value) and "[key]" in str(caught.value)
        monkeypatch.setenv("MY_KEY", "sk-right")
        assert check_server(client(server, api_key_env="MY_KEY"))["id"] == "scripted"


def test_nobody_there_is_said_with_a_remedy() -> None:
    with ScriptedServer(Script(echo)) as server:
        c = client(server, connect_attempts=2)
    with pytest.raises(EndpointError, match=r"no OpenAI-compatible server answers.*deepscaler serve"):
        check_server(c)


def test_a_budget_above_the_context_is_refused_before_the_first_sample() -> None:
    above = r"budget of 100 tokens above the model's context.*lower --max-tokens"
    with ScriptedServer(Script(echo, max_model_len=100)) as server, pytest.raises(EndpointError, match=above):
        check_server(client(server))


def test_probing_finds_what_a_server_ignores() -> None:
    with ScriptedServer(Script(echo)) as server:
        assert probe_sampling(client(server), "q") == []
    with ScriptedServer(Script(echo, ignore=frozenset({"seed"}))) as server:
        assert "ignores seeds" in probe_sampling(client(server), "q")[0]
    with ScriptedServer(Script(lambda q, s: q)) as server:
        assert "ignores seed or temperature" in probe_sampling(client(server), "q")[0]
    for name, params in (
        ("top_k", SamplingParams(100, 0.6, 0.95, top_k=20)),
        ("top_p", SamplingParams(100, 0.6, 0.95)),
        ("temperature", SamplingParams(100, 0.0, 0.95)),
    ):
        with ScriptedServer(Script(echo)) as server:
            assert probe_sampling(client(server, params=params), "q") == []
        with ScriptedServer(Script(echo, ignore=frozenset({name}))) as server:
            assert f"ignores {name}" in probe_sampling(client(server, params=params), "q")[0]
    with ScriptedServer(Script(echo, say_finish=False)) as server:
        assert "without a known finish reason" in probe_sampling(client(server), "q")[0]
    with ScriptedServer(Script(lambda q, s: f"{s}" + "x" * 5000, say_usage=False)) as server:
        assert "ignores the budget" in probe_sampling(client(server), "q")[0]


def test_replies_give_away_what_was_changed() -> None:
    faults = Faults(truncated=0.5)
    with ScriptedServer(Script(echo, say_usage=False, say_finish=False, faults=faults)) as server:
        c = client(server)
        monitor = ReplyMonitor(c)
        answers = list(c.complete(chat_requests(10)))
        for answer in answers:
            monitor.record(answer)
            assert answer.reply.num_tokens is None and answer.reply.finish_reason is FinishReason.UNKNOWN
    words = " ".join(monitor.warnings())
    assert "10 of 10 replies had no known finish reason" in words and "10 of 10 replies had no token count" in words
    monitor = ReplyMonitor(c)
    over = parse_reply(reply({"content": "x"}, usage={"completion_tokens": 101}, model="m"))
    short = json.loads(reply({"content": "x"}, usage={"completion_tokens": 50}, model="scripted"))
    short["choices"][0]["finish_reason"] = "length"
    for r in (over, parse_reply(json.dumps(short).encode())):
        monitor.record(type(answers[0])(answers[0].request, r, 0.1))
    words = " ".join(monitor.warnings())
    assert "1 of 2 replies were longer than the budget" in words and "1 of 2 replies were truncated before" in words
    assert "replies name the model m, not scripted" in words
