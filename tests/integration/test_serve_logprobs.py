"""Log-probabilities over HTTP: of sampled tokens, of an echoed prompt, and the likeliest tokens beside each."""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.request
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.modeling.load import load_model
from deepscaler.serve.app import Service
from served_model import served
from tiny_run import write_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("logprobs") / "model")


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[tuple[str, Service]]:
    with served(model) as running:
        yield running


@pytest.fixture(scope="module")
def reference(model: Path) -> Any:
    """ids -> log-probabilities [T-1,V] of what follows each, by transformers' own attention."""
    weights: Any = load_model(model)
    weights.set_attn_implementation("eager")

    def logprobs(ids: list[int]) -> Any:
        with torch.no_grad():
            return torch.log_softmax(weights(torch.tensor([ids])).logits[0, :-1].float(), -1).numpy()

    return logprobs


def post(address: str, path: str, **body: Any) -> Any:
    data = json.dumps({"model": "tiny", "seed": 1, **body}).encode()
    request = urllib.request.Request(f"{address}/{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            raise AssertionError(error.read().decode()) from error


def loglikelihoods(reply: Any, lengths: list[int]) -> list[tuple[float, bool]]:
    """As lm-evaluation-harness reads them: (sum over the continuation, is each its likeliest token?)."""
    found = []
    for choice, length in zip(sorted(reply["choices"], key=itemgetter("index")), lengths, strict=True):
        values = choice["logprobs"]["token_logprobs"][length:-1]
        tops = choice["logprobs"]["top_logprobs"][length:-1]
        found.append((sum(values), all(v == max(top.values()) for v, top in zip(values, tops, strict=True))))
    return found


def test_loglikelihoods_of_lists_of_prompts_are_the_models(server: tuple[str, Service], reference: Any) -> None:
    address, service = server
    contexts, continuations = ["37 a+25", "1", "12 a+3\n"], ["so 62", "</think>", "1"]
    encoded = ([service.tokenizer(text)["input_ids"] for text in texts] for texts in (contexts, continuations))
    pairs = list(zip(*encoded, strict=True))
    greedy = [int(reference([*pairs[0][0], 0])[-1].argmax())]  # the likeliest token after the first context
    pairs.append((pairs[0][0], greedy))
    body = {"temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": True}
    prompts = [context + continuation for context, continuation in pairs]
    reply = post(address, "completions", prompt=prompts, **body)
    found = loglikelihoods(reply, [len(context) for context, _ in pairs])
    for (context, continuation), (total, is_greedy) in zip(pairs, found, strict=True):
        rows = reference(context + continuation)[len(context) - 1 :]
        assert total == pytest.approx(float(rows[range(len(continuation)), continuation].sum()), abs=1e-3)
        assert is_greedy == (rows.argmax(1).tolist() == continuation)
    assert found[-1][1]
    assert reply["usage"]["prompt_tokens"] == sum(map(len, prompts))
    assert [c["index"] for c in reply["choices"]] == [0, 1, 2, 3]


def test_an_echoed_prompt_begins_the_text_and_its_tables(server: tuple[str, Service]) -> None:
    address, service = server
    ids = service.tokenizer("37 a+25")["input_ids"]
    plain = post(address, "completions", prompt=ids, max_tokens=6)["choices"][0]
    for prompt in (ids, "37 a+25"):
        (choice,) = post(address, "completions", prompt=prompt, max_tokens=6, echo=True, logprobs=2)["choices"]
        table = choice["logprobs"]
        assert choice["text"] == "37 a+25" + plain["text"]
        assert table["tokens"][: len(ids)] == [service.tokenizer.decode([i]) for i in ids]
        assert {len(column) for column in table.values()} == {len(table["tokens"])}
        assert table["token_logprobs"][0] is None and table["top_logprobs"][0] is None
        columns = (table[name][1:] for name in ("token_logprobs", "top_logprobs", "tokens"))
        for value, top, token in zip(*columns, strict=True):
            assert 2 <= len(top) <= 3 and top[token] == value <= 0
        for offset, token in zip(table["text_offset"], table["tokens"], strict=True):
            assert "".join(table["tokens"])[offset:].startswith(token)


def test_nothing_is_sampled_when_only_the_prompt_is_wanted(server: tuple[str, Service], reference: Any) -> None:
    address, service = server
    ids = service.tokenizer("37 a+25")["input_ids"]
    reply = post(address, "completions", prompt=[ids, [5]], max_tokens=0, echo=True, logprobs=0)
    first, second = reply["choices"]
    assert (first["text"], first["finish_reason"]) == ("37 a+25", "length")
    values = first["logprobs"]["token_logprobs"]
    np.testing.assert_allclose(values[1:], reference(ids)[range(len(ids) - 1), ids[1:]], atol=1e-4)
    assert second["logprobs"]["token_logprobs"] == [None]
    assert reply["usage"]["completion_tokens"] == 0


def test_each_prompt_of_a_list_gets_what_it_gets_alone(server: tuple[str, Service]) -> None:
    prompts = ["37 a+25", "1", "2 a+2"]
    both = post(server[0], "completions", prompt=prompts, max_tokens=8, n=2)["choices"]
    alone = [c for p in prompts for c in post(server[0], "completions", prompt=p, max_tokens=8, n=2)["choices"]]
    assert [c["text"] for c in both] == [c["text"] for c in alone]
    assert [c["index"] for c in both] == list(range(6))
    # Without a seed, equal prompts are different draws.
    same = post(server[0], "completions", prompt=["1"] * 4, max_tokens=30, seed=None)["choices"]
    assert len({c["text"] for c in same}) > 1


def test_the_likeliest_tokens_of_a_chat(server: tuple[str, Service]) -> None:
    body = {"messages": [{"role": "user", "content": "37 a+25"}], "max_tokens": 8, "temperature": 0.7, "logprobs": True}
    plain = post(server[0], "chat/completions", **body)["choices"][0]
    with_top = post(server[0], "chat/completions", **body, top_logprobs=3)["choices"][0]
    assert with_top["message"] == plain["message"]
    for one, other in zip(plain["logprobs"]["content"], with_top["logprobs"]["content"], strict=True):
        assert other["logprob"] == pytest.approx(one["logprob"], abs=1e-4) and not one["top_logprobs"]
        values = [a["logprob"] for a in other["top_logprobs"]]
        assert len(values) == 3 and values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) <= 1 + 1e-5
        named = {a["token"]: a["logprob"] for a in other["top_logprobs"]}
        assert named.get(other["token"], other["logprob"]) == other["logprob"]


def test_streams_carry_echo_and_log_probabilities(server: tuple[str, Service]) -> None:
    body = {"prompt": ["37 a+25", "1"], "max_tokens": 6, "echo": True, "logprobs": 1}
    whole = post(server[0], "completions", **body)["choices"]
    data = json.dumps({"model": "tiny", "seed": 1, "stream": True, **body}).encode()
    request = urllib.request.Request(f"{server[0]}/completions", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        lines = response.read().decode().split("\n\n")
    chunks = [json.loads(x.removeprefix("data: "))["choices"][0] for x in lines if x and not x.endswith("[DONE]")]
    for choice in whole:
        mine = [c for c in chunks if c["index"] == choice["index"]]
        assert "".join(c["text"] for c in mine) == choice["text"]
        assert mine[-1]["logprobs"] == choice["logprobs"]


def test_stop_tokens_of_a_request_end_it_and_stay_out_of_its_text(server: tuple[str, Service]) -> None:
    address, service = server
    body = {"prompt": "37 a+25", "max_tokens": 20, "temperature": 0, "logprobs": 0}
    (whole,) = post(address, "completions", **body)["choices"]
    tokens = whole["logprobs"]["tokens"]
    stop = tokens[4]
    (stop_id,) = service.tokenizer(stop)["input_ids"]
    (cut,) = post(address, "completions", **body, stop_token_ids=[stop_id])["choices"]
    end = tokens.index(stop)
    assert cut["text"] == "".join(tokens[:end]) and cut["finish_reason"] == "stop"
    assert cut["logprobs"]["tokens"] == tokens[: end + 1]


def test_a_last_message_is_gone_on_with(server: tuple[str, Service]) -> None:
    messages = [{"role": "user", "content": "37 a+25"}, {"role": "assistant", "content": "<think>so"}]
    reply = post(server[0], "chat/completions", messages=messages, continue_final_message=True, max_tokens=5)
    raw = post(
        server[0], "completions", prompt="<user>37 a+25<assistant><think>so", add_special_tokens=False, max_tokens=5
    )
    message = reply["choices"][0]["message"]
    assert message["reasoning_content"] + message["content"] == raw["choices"][0]["text"].replace("</think>", "")
    assert reply["usage"] == raw["usage"]
