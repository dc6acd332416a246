"""The server as clients meet it: real HTTP, a tiny model, OpenAI's shapes."""

from __future__ import annotations

import asyncio
import http.client
import json
import queue
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepscaler.data.templates import render_prompt
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.modeling.load import load_model, load_tokenizer, stop_token_ids
from deepscaler.serve.app import Service
from deepscaler.serve.output_processor import SERVE_STEP, CompletionOutput, sampling_params
from deepscaler.serve.requests import parse_chat
from deepscaler.serve.server import ServeOptions, open_service, read_token
from deepscaler.types import Request, SamplingParams
from served_model import served
from tiny_run import write_model

MESSAGES = [{"role": "user", "content": "37 a+25"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[tuple[str, Service]]:
    with served(model) as running:
        yield running


def post(address: str, body: Any, path: str = "/chat/completions", **headers: str) -> tuple[int, Any]:
    data = (
        body if isinstance(body, bytes) else json.dumps({"model": "tiny", "max_tokens": 12, "seed": 1, **body}).encode()
    )
    request = urllib.request.Request(
        address + path,
        data,
        {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}},
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            content = response.read()
            is_stream = response.headers["content-type"].startswith("text/event-stream")
            return response.status, content if is_stream else json.loads(content)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def chat(address: str, **more: Any) -> Any:
    status, reply = post(address, {"messages": MESSAGES, **more})
    assert status == 200, reply
    return reply


def events(content: bytes) -> list[Any]:
    lines = [line.removeprefix("data: ") for line in content.decode().split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_models_say_the_name_and_the_context(server: tuple[str, Service]) -> None:
    with urllib.request.urlopen(f"{server[0]}/models", timeout=10) as response:
        (facts,) = json.load(response)["data"]
    assert (facts["id"], facts["owned_by"], facts["max_model_len"]) == ("tiny", "deepscaler", 400)


def test_a_completion_is_the_engines_own(server: tuple[str, Service], model: Path) -> None:
    """The same ids as the engine samples for that key, and their logprobs."""
    tokenizer, weights = load_tokenizer(model), load_model(model)
    engine = TorchEngine(weights, stop_ids=stop_token_ids(model, tokenizer), max_active=4)
    prompt_ids, prefilled = render_prompt(tokenizer, "37 a+25")
    assert prefilled
    params = SamplingParams(12, 0.7, 0.9, seed=1, step=SERVE_STEP)
    rollouts = sorted(engine.generate([Request("serve", prompt_ids, 2)], params), key=lambda r: r.sample_index)
    reply = chat(server[0], n=2, temperature=0.7, top_p=0.9, logprobs=True)
    assert reply["usage"]["completion_tokens"] == sum(r.num_tokens for r in rollouts)
    for choice, rollout in zip(reply["choices"], rollouts, strict=True):
        rows = choice["logprobs"]["content"]
        assert [r["token"] for r in rows] == [tokenizer.decode([i]) for i in rollout.completion_ids.tolist()]
        np.testing.assert_allclose([r["logprob"] for r in rows], rollout.rollout_logprobs, atol=1e-4)
        assert choice["finish_reason"] == rollout.finish_reason.value
        # The template opened <think>, and so short a completion never closes it.
        assert choice["message"]["reasoning_content"] and choice["message"]["content"] == ""


def test_a_server_told_to_stop_does_so_for_every_request(model: Path) -> None:
    outputs: queue.Queue[Any] = queue.Queue()
    with open_service(model, ServeOptions(context=400, stop=("1",), stop_token_ids=(10,), processes=1)) as service:
        body = {"messages": MESSAGES, "model": "m", "n": 32, "stop": "2", "max_tokens": 60}
        asked = parse_chat(body, "m")
        (prompt,) = service.encoder.prompts(asked)
        service.engine.submit([(prompt.ids, sampling_params(asked, prompt.ids, 400, 1))], asked, outputs.put)
        seen: list[CompletionOutput] = []
        while sum(output.finish_reason is not None for output in seen) < 32:
            seen.append(outputs.get(timeout=60))
    assert not any("1" in output.text or "2" in output.text for output in seen)
    done = [output for output in seen if output.finish_reason is not None]
    assert not any(10 in output.token_ids[:-1] for output in done)
    assert any(output.token_ids[-1] == 10 for output in done)
    with pytest.raises(ValueError, match="--stop"), open_service(model, ServeOptions(stop=("",))):
        pass


def test_the_seed_decides(server: tuple[str, Service]) -> None:
    def text(**more: Any) -> str:
        return chat(server[0], **more)["choices"][0]["message"]["reasoning_content"]

    assert text(seed=5) == text(seed=5) != text(seed=6)
    assert text(seed=None) != text(seed=None)
    assert text(temperature=0, seed=5) == text(temperature=0, seed=6) == text(top_k=1, seed=7)


def test_streamed_pieces_add_up_to_the_whole(server: tuple[str, Service]) -> None:
    whole = chat(server[0], n=2)
    status, content = post(
        server[0], {"messages": MESSAGES, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    )
    assert status == 200
    *chunks, usage = events(content)
    assert usage["usage"] == whole["usage"] and usage["choices"] == []
    for index in range(2):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        reasoning = "".join(c["delta"].get("reasoning_content", "") for c in mine)
        assert reasoning == whole["choices"][index]["message"]["reasoning_content"]
        assert mine[0]["delta"]["role"] == "assistant" and all("role" not in c["delta"] for c in mine[1:])
        assert [c["finish_reason"] for c in mine if c["finish_reason"]] == [whole["choices"][index]["finish_reason"]]


def test_plain_completions_take_text_and_ids_and_stop_strings(server: tuple[str, Service]) -> None:
    def text(prompt: Any, **more: Any) -> Any:
        status, reply = post(server[0], {"prompt": prompt, "temperature": 0, **more}, "/completions")
        assert status == 200, reply
        return reply["choices"][0]

    whole = text("37 a+25")
    ids = server[1].tokenizer("37 a+25")["input_ids"]
    assert text(ids)["text"] == text(["37 a+25"])["text"] == whole["text"]
    stop = whole["text"][3:5]
    cut = text("37 a+25", stop=[stop])
    assert cut["text"] == whole["text"][: whole["text"].find(stop)] and cut["finish_reason"] == "stop"
    with_logprobs = text("37 a+25", logprobs=1)["logprobs"]
    assert "".join(with_logprobs["tokens"]).startswith(whole["text"])
    assert max(with_logprobs["token_logprobs"]) <= 0


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "other", "messages": MESSAGES}, 404, "does not exist"),
        ({"messages": []}, 400, "at least one message"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "expected role"),
        ({"messages": [{"role": "user", "content": 3}]}, 400, "expected text"),
        ({"messages": MESSAGES, "max_tokens": 5000}, 400, "maximum context length is 400"),
        ({"messages": MESSAGES, "temperature": "hot"}, 400, "temperature: expected a number"),
        ({"messages": MESSAGES, "top_p": 0}, 400, "top_p"),
        ({"messages": MESSAGES, "n": 1000}, 400, "n: expected a whole number from 1 to 128"),
        ({"messages": MESSAGES, "stop": [""]}, 400, "stop"),
        ({"messages": MESSAGES, "tools": [{}]}, 400, "tools: .* is not supported"),
        ({"messages": MESSAGES, "frequency_penalty": 1}, 400, "frequency_penalty"),
        (b"{", 400, "not JSON"),
        (b"[1]", 400, "not a JSON object"),
    ],
)
def test_what_cannot_be_served_is_refused_in_openais_shape(
    server: tuple[str, Service], body: Any, status: int, words: str
) -> None:
    import re

    code, reply = post(server[0], body)
    assert code == status
    assert re.search(words, reply["error"]["message"])
    assert reply["error"]["type"] == "invalid_request_error"


def test_unknown_paths_and_content_types_are_refused(server: tuple[str, Service]) -> None:
    assert post(server[0], {}, "/embeddings")[0] == 404
    assert post(server[0], {"messages": MESSAGES}, Content_Type="text/plain")[0] == 415
    # A page whose name was rebound to this address sends its own name.
    code, reply = post(server[0], {"messages": MESSAGES}, Host="evil.example")
    assert code == 403 and "evil.example" in reply["error"]["message"]


def test_a_token_is_asked_of_everybody(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSCALER_API_KEY", "sesame")
    with served(model) as (address, _):
        assert post(address, {"messages": MESSAGES})[0] == 401
        assert post(address, {"messages": MESSAGES}, Authorization="Bearer no")[0] == 401
        assert post(address, {"messages": MESSAGES}, Authorization="Bearer sesame")[0] == 200
    monkeypatch.delenv("DEEPSCALER_API_KEY")
    with pytest.raises(ValueError, match=r"can be reached from other machines.*DEEPSCALER_API_KEY"):
        read_token(ServeOptions(host="0.0.0.0"))


def test_a_full_queue_asks_to_come_back(model: Path) -> None:
    with served(model, max_queued=3) as (address, service):
        assert post(address, {"messages": MESSAGES, "n": 4})[0] == 429
        assert post(address, {"messages": MESSAGES, "n": 3})[0] == 200
        assert service.engine.num_open == 0


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_frees_its_slot(server: tuple[str, Service], stream: bool) -> None:
    address, service = server
    host = address.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(host, timeout=30)
    body = {"model": "tiny", "prompt": "1", "max_tokens": 390, "n": 8, "stream": stream, "temperature": 2.0}
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    deadline = time.monotonic() + 30
    while not service.engine.num_open and time.monotonic() < deadline:
        time.sleep(0.001)
    assert service.engine.num_open
    connection.close()
    while service.engine.num_open and time.monotonic() < deadline:
        time.sleep(0.001)
    assert service.engine.num_open == 0
    assert chat(address)["choices"]


def test_many_clients_share_one_batch(server: tuple[str, Service]) -> None:
    """Each gets what it would get alone, whatever joins and leaves beside it."""

    def one(seed: int) -> Any:
        return chat(server[0], seed=seed, max_tokens=5 + seed % 20, temperature=0.5 + seed % 3)["choices"]

    alone = [one(seed) for seed in range(8)]

    async def together() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(one, seed) for seed in range(8)))

    assert asyncio.run(together()) == alone
