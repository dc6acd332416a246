"""A server that takes a request and forgets it, while it answers all others."""

from __future__ import annotations

import time
from typing import Any

import pytest

from deepscaler.config.evaluation import ClientSection
from deepscaler.engines.openai.client import ChatRequest, OpenAIClient, request_seed
from deepscaler.engines.openai.probe import ReplyMonitor
from deepscaler.engines.openai.reply import parse_reply
from deepscaler.engines.openai.timeouts import Exchange, Timeouts
from deepscaler.observability.counts import counted
from deepscaler.types import SamplingParams
from scripted_server import ScriptedServer
from server_script import Faults, Script

PARAMS = SamplingParams(max_completion_tokens=100, temperature=0.6, top_p=0.95, seed=3)
# Nothing but `lost_s` ends a wait within the time of a test.
WAITS: dict[str, Any] = {"concurrency": 16, "backoff_s": 0.005, "backoff_max_s": 0.02, "lost_s": 0.3}


def echo(question: str, seed: int) -> str:
    return f"{question} with {seed}"


def chat_requests(count: int) -> list[ChatRequest]:
    return [ChatRequest(i, f"question {i}", request_seed(1, "p", i)) for i in range(count)]


@pytest.mark.parametrize("stream", [True, False])
def test_lost_requests_are_asked_again_and_counted(stream: bool) -> None:
    faults = Faults(silence=0.02, silence_s=3600.0)
    with ScriptedServer(Script(echo, faults=faults, latency_s=0.005)) as server:
        client = OpenAIClient(server.url, "scripted", PARAMS, ClientSection(**WAITS, stream=stream))
        answers = list(client.complete(chat_requests(400)))
        planted = server.planted["silence"]
    assert len(answers) == 400 and {a.request.key for a in answers} == set(range(400)) and not client.unfinished
    assert client.faults["lost"] == planted > 0
    assert all(a.reply.text == echo(a.request.question, a.request.seed) for a in answers)
    words = " ".join(ReplyMonitor(client).warnings())
    assert f"{counted(planted, 'attempt')} failed, each repeated: lost (the server took them" in words


def test_a_question_that_is_lost_every_time_is_given_up_and_the_others_are_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deepscaler.engines.openai.timeouts.SLOWER_STREAM", 1.0)
    with ScriptedServer(Script(echo, latency_s=0.005, wait_s={"question 3": 3600.0})) as server:
        client = OpenAIClient(server.url, "scripted", PARAMS, ClientSection(**{**WAITS, "lost_s": 0.05}))
        answers = list(client.complete(chat_requests(200)))
    assert len(answers) == 199 and client.unfinished[0][0] == 3
    assert client.faults["lost"] == 4 and "requests sent later were answered (4 attempts)" in client.unfinished[0][1]


def answered(seconds: float, *, tokens: int, streamed: bool = True, number: int = 5) -> Timeouts:
    """A client with a budget of 1000 tokens that has seen one answer, to its fifth request."""
    timeouts = Timeouts(ClientSection(), 1000)
    usage = {"completion_tokens": tokens}
    body = {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": usage}
    reply = parse_reply(str(body).replace("'", '"').encode())
    timeouts.record(Exchange(number, streamed, sent=time.monotonic() - seconds), reply)
    return timeouts


def test_without_a_stream_the_silence_limit_follows_the_slowest_token() -> None:
    section = ClientSection()
    assert Timeouts(section, 1000).silence_limit(streamed=False) == section.read_s  # no response yet
    assert answered(1.0, tokens=10, streamed=False).silence_limit(streamed=False) == pytest.approx(400.0, rel=0.01)
    assert answered(0.001, tokens=10, streamed=False).silence_limit(streamed=False) == section.silence_s
    assert answered(1.0, tokens=10).silence_limit(streamed=True) == min(section.silence_s, section.read_s)


def silent(seconds: float, *, streamed: bool = True, number: int = 1, heard: float | None = None) -> Exchange:
    now = time.monotonic()
    return Exchange(number, streamed, sent=now - seconds, heard=None if heard is None else now - heard)


def test_a_request_is_lost_after_many_times_the_slowest_answer_and_a_minute() -> None:
    assert answered(0.1, tokens=10).is_lost(silent(61), 0) and not answered(0.1, tokens=10).is_lost(silent(59), 0)
    slow = answered(20.0, tokens=10)
    assert slow.is_lost(silent(165), 0) and not slow.is_lost(silent(155), 0)
    assert not slow.is_lost(silent(165), 1) and slow.is_lost(silent(325), 1)  # and then it gets more time


def test_a_request_that_may_stand_in_the_queue_is_not_lost() -> None:
    """Nothing sent after it has been answered."""
    assert not answered(0.1, tokens=10).is_lost(silent(3000, number=6), 0)
    assert not Timeouts(ClientSection(), 1000).is_lost(silent(3000), 0)


def test_a_stream_that_goes_on_is_not_lost_however_long_it_is() -> None:
    assert not answered(0.1, tokens=10).is_lost(silent(3000, heard=1.0), 0)


def test_an_answer_in_one_piece_may_take_as_long_as_the_whole_budget() -> None:
    """Ten tokens in ten seconds: a thousand need 1000 s, and the first answers are the short ones."""
    timeouts = answered(10.0, tokens=10, streamed=False)
    assert not timeouts.is_lost(silent(315, streamed=False), 0) and timeouts.is_lost(silent(325, streamed=False), 0)
    near = answered(10.0, tokens=1000, streamed=False)  # the whole budget: no answer is much slower
    assert near.is_lost(silent(85, streamed=False), 0)
