"""A client that asks for everything once, repeats what failed, and says what it saw; against a real server."""

from __future__ import annotations

import time

import pytest

from deepscaler.engines.openai.http import EndpointError, check_address
from deepscaler.engines.openai.probe import check_server, probe_sampling
from openai_clients import chat_requests, client, echo
from scripted_server import ScriptedServer
from server_script import Faults, Script


def test_every_ask_is_answered_once_with_its_own_seed() -> None:
    with ScriptedServer(Script(echo)) as server:
        answers = list(client(server).complete(chat_requests(200)))
        assert sorted(a.request.key for a in answers) == list(range(200))
        assert all(a.reply.text == echo(a.request.question, a.request.seed) for a in answers)
        bodies = server.bodies
    sent = {(body["messages"][0]["content"], body["seed"]) for body in bodies}
    assert len(bodies) == len(sent) == len({seed for _, seed in sent}) == 200
    assert sent == {(r.question, r.seed) for r in chat_requests(200)}
    body = bodies[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"], body["n"]) == (0.6, 0.95, 100, 1)
    assert "top_k" not in body and "min_p" not in body  # OpenAI's own servers refuse them
    assert body["messages"][0]["role"] == "user" and len(body["messages"]) == 1


def test_servers_with_defaults_of_their_own_are_told_what_is_off() -> None:
    with ScriptedServer(Script(echo, owned_by="vllm")) as server:
        c = client(server)
        check_server(c)
        list(c.complete(chat_requests(1)))
        body = server.bodies[-1]
    assert (body["top_k"], body["min_p"], body["repetition_penalty"]) == (-1, 0.0, 1.0)
    assert body["skip_special_tokens"] is False


def test_faults_are_repeated_and_counted_and_cost_no_answer() -> None:
    planted = {"error_500": 0.05, "hang_up": 0.05, "malformed": 0.03, "half_body": 0.02, "rate_limit": 0.03}
    faults = Faults(**planted, duplicate=0.03, replies_back=40)
    with ScriptedServer(Script(echo, faults=faults)) as server:
        c = client(server)
        answers = list(c.complete(chat_requests(500)))
        assert sorted(a.request.key for a in answers) == list(range(500)) and not c.unfinished
        assert all(a.reply.text == echo(a.request.question, a.request.seed) for a in answers)
        planted = server.planted
    assert c.faults["http_5xx"] == planted["error_500"] > 0
    assert c.faults["dropped"] == planted["hang_up"] + planted["half_body"] > 0
    assert c.faults["malformed"] == planted["malformed"] > 0
    assert c.faults["http_429"] == planted["rate_limit"] > 0
    assert c.faults["duplicate"] == planted["duplicate"] > 0


def test_silence_is_ended_and_repeated() -> None:
    with ScriptedServer(Script(echo, faults=Faults(silence=0.2))) as server:
        c = client(server, read_s=0.2, silence_s=5.0, stream=False, concurrency=32)
        assert len(list(c.complete(chat_requests(60)))) == 60
        assert c.faults["timeout"] == server.planted["silence"] > 0


def test_an_endless_reply_is_truncated() -> None:
    with ScriptedServer(Script(echo, faults=Faults(endless=1.0))) as server:
        c = client(server, max_attempts=2, concurrency=2)
        with pytest.raises(EndpointError, match=r"no usable answer to any request.*more than \d+ bytes, truncated"):
            list(c.complete(chat_requests(2)))
        assert c.faults["endless"] >= 2


def test_a_server_that_dies_ends_the_run_with_what_came_before() -> None:
    with ScriptedServer(Script(echo)) as server:
        got = []
        with pytest.raises(EndpointError, match="Finished samples are kept"):
            for answer in client(server, max_attempts=3, concurrency=4).complete(chat_requests(10_000)):
                got.append(answer)
                server.down = len(got) > 50
        assert 50 < len(got) < 200


def test_a_server_that_caches_everything_is_accepted_in_the_end() -> None:
    """Repeating for ever would be worse; the share of identical completions shows it in the results."""
    with ScriptedServer(Script(echo)) as server:
        c = client(server, concurrency=1)
        assert len(list(c.complete(chat_requests(3)))) == 3 and not c.faults
        server.script.faults.duplicate = 1.0
        assert len(list(c.complete(chat_requests(3)))) == 3
        assert c.faults["duplicate"] == 9


def test_abandoning_the_answers_ends_the_requests() -> None:
    with ScriptedServer(Script(echo, latency_s=0.02)) as server:
        answers = client(server, concurrency=2).complete(chat_requests(1000))
        next(answers)
        answers.close()
        seen = len(server.bodies)
        time.sleep(0.2)
        assert len(server.bodies) <= seen + 2 < 50


def test_addresses_with_credentials_are_refused() -> None:
    for address in ("http://user:secret@host/v1", "https://host/v1?key=secret"):
        with pytest.raises(ValueError, match="credentials") as caught:
            check_address(address)
        assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="expected an address"):
        check_address("localhost:8000")
    assert check_address("http://host/v1/") == "http://host/v1"


@pytest.mark.parametrize(
    ("script", "streams"),
    [
        (Script(echo), True),
        (Script(echo, reasoning_field="reasoning_content"), True),
        (Script(echo, streams=False), False),
        (Script(echo, say_usage=False), False),  # better no stream than no token counts
    ],
)
def test_streaming_is_used_where_the_server_can_and_changes_no_answer(script: Script, streams: bool) -> None:
    with ScriptedServer(script) as server:
        c = client(server)
        probe_sampling(c, "q")
        assert c.streaming is streams
        ours = {a.request.key: a.reply for a in c.complete(chat_requests(20))}
        assert ("stream" in server.bodies[-1]) is streams
        whole = client(server, stream=False)
        for a in whole.complete(chat_requests(20)):
            other = ours[a.request.key]
            assert (a.reply.text, a.reply.num_tokens) == (other.text, other.num_tokens)
            assert (a.reply.finish_reason, other.streamed) == (other.finish_reason, streams)


@pytest.mark.parametrize("fault", ["silence", "stall"])
def test_a_connected_server_that_says_nothing_is_noticed(fault: str) -> None:
    with ScriptedServer(Script(echo)) as server:
        c = client(server, concurrency=4, silence_s=0.4)
        got, start = [], 0.0
        with pytest.raises(EndpointError, match=r"no usable answer.*the server is silent.*samples are kept"):
            for answer in c.complete(chat_requests(5000)):
                got.append(answer)
                if len(got) == 30:
                    setattr(server.script.faults, fault, 1.0)
                    start = time.monotonic()
        assert 30 <= len(got) < 60 and time.monotonic() - start < 60
        assert c.faults["silent"] >= 2


def test_a_request_that_waits_in_the_queue_is_not_silence_while_others_are_answered() -> None:
    def reply(question: str, seed: int) -> str:
        return f"{seed:09} " * 2

    with ScriptedServer(Script(reply, piece_s=0.05)) as server:
        server.script.wait_s = {"question 0": 1.2}
        c = client(server, concurrency=2, silence_s=0.4)
        answers = list(c.complete(chat_requests(14)))
        assert len(answers) == 14 and not c.faults
        assert max(a.latency_s for a in answers) > 1.2


def test_without_a_stream_a_silent_server_is_noticed_by_the_slowest_response() -> None:
    """20 ms for seven tokens, four times that for the hundred allowed; a busy machine may take longer."""
    with ScriptedServer(Script(echo, latency_s=0.02)) as server:
        c = client(server, stream=False, silence_s=0.3, concurrency=2, total_s=600.0)
        assert len(list(c.complete(chat_requests(20)))) == 20
        server.script.faults.silence = 1.0
        with pytest.raises(EndpointError, match="the server is silent"):
            list(c.complete(chat_requests(4)))
