"""Requests to a judge: retries, limits, what is kept on disk."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from deepscaler.rewards.builtin import judge
from deepscaler.rewards.judge import client
from deepscaler.rewards.judge.cache import ReplyCache
from deepscaler.rewards.judge.client import Endpoint, JudgeError, Reply, ask
from judge_server import judge_server

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "BACKOFF_S", 0.0)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_broken_server_is_asked_again(status: int) -> None:
    with judge_server(lambda body, number: (200, "fine") if number == 3 else (status, "busy")) as server:
        reply = ask(Endpoint(server.url, "key", 10, 3), BODY)
        assert (reply.text, reply.prompt_tokens, reply.completion_tokens, reply.num_requests) == ("fine", 100, 10, 3)
        assert server.keys == ["Bearer key"] * 3
    with judge_server(lambda body, number: (status, "busy")) as server:
        with pytest.raises(JudgeError, match=rf"max_attempts = 2\); last HTTP {status}: busy"):
            ask(Endpoint(server.url, "", 10, 2), BODY)
        assert len(server.bodies) == 2


def test_what_another_attempt_cannot_mend_is_an_error_at_once() -> None:
    with judge_server(lambda body, number: (401, "no such key")) as server:
        with pytest.raises(JudgeError, match="refused: HTTP 401: no such key"):
            ask(Endpoint(server.url, "", 10, 3), BODY)
        assert len(server.bodies) == 1
    with pytest.raises(JudgeError, match="did not answer"):
        ask(Endpoint("http://127.0.0.1:9/v1", "", 1, 2), BODY)


def test_replies_are_kept_by_what_was_asked(tmp_path: Path) -> None:
    cache = ReplyCache(tmp_path / "deep" / "cache.sqlite")
    assert cache.find("u", BODY) is None
    cache.keep("u", BODY, Reply("yes", 3, 4))
    assert ReplyCache(tmp_path / "deep" / "cache.sqlite").find("u", BODY) == Reply("yes", 3, 4)
    assert cache.find("u", {**BODY, "temperature": 1}) is None
    assert cache.find("other", BODY) is None


def test_a_judge_counts_tokens_and_cost_and_asks_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSCALER_REWARD_DIR", str(tmp_path))
    with judge_server(lambda body, number: (200, "good [[8]]")) as server:
        first, again = (
            asyncio.run(
                judge.reward(
                    "1+1?",
                    "it is 2",
                    "hm",
                    "2",
                    ["2", "two"],
                    url=server.url,
                    model="m",
                    prompt_cost=2.0,
                    completion_cost=10.0,
                )
            )
            for _ in range(2)
        )
        assert len(server.bodies) == 1
        content = server.bodies[0]["messages"][0]["content"]
    assert "1+1?" in content and "it is 2" in content and "2 or two" in content
    tokens = {"prompt_tokens": 100.0, "completion_tokens": 10.0, "cost": pytest.approx((200 + 100) / 1e6)}
    assert first == {"reward": 0.8, "requests": 1.0, "cached": 0.0, **tokens}
    assert again == {"reward": 0.8, "requests": 0.0, "cached": 1.0, **dict.fromkeys(tokens, 0.0)}


def test_a_judge_sees_no_completion_that_never_answers() -> None:
    asked = judge.reward("q", None, "hm", None, [], url="http://127.0.0.1:9/v1", model="m", unfinished=-1.0)
    assert asyncio.run(asked) == {"reward": -1.0}


def test_a_score_outside_the_scale_is_an_error() -> None:
    with judge_server(lambda body, number: (200, "[[11]]")) as server, pytest.raises(ValueError, match="outside scale"):
        asyncio.run(judge.reward("q", "r", "", None, [], url=server.url, model="m"))
