"""A fault of one completion ends that completion: all others come to the same end as without it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.engines.torch.block_attention import CpuStep
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.serve.choices import Piece, sampling_params
from deepscaler.serve.engine_thread import MAX_FAULTS, EngineThread
from deepscaler.serve.requests import Asked, RequestError, parse_completion

POISON = 39  # a token whose embedding is no number
CAPACITY = 100
STOP = frozenset({1})


def asked(prompt: list[int], **more: Any) -> Asked:
    return parse_completion({"model": "m", "prompt": prompt, "max_tokens": 24, "seed": 1, "logprobs": 0, **more}, "m")


class Running:
    """An engine thread, and what its requests come to: their tokens, or the error."""

    def __init__(self, engine: TorchEngine, decode: Callable[[Sequence[int], bool], str] = lambda ids, _: "x") -> None:
        self.engine = engine
        self.thread = EngineThread(engine, decode=decode, stop_ids=STOP, capacity=CAPACITY, max_queued=10_000)

    def submit(self, request: Asked) -> queue.Queue[Piece | RequestError]:
        pieces: queue.Queue[Piece | RequestError] = queue.Queue()
        (prompt,) = request.prompts
        ids = np.array(prompt, np.int32)
        params = sampling_params(request, ids, CAPACITY, request.seed or 0)
        self.thread.submit([(ids, params)], request, pieces.put)
        return pieces

    def results(self, requests: Sequence[Asked]) -> list[tuple[int, ...] | RequestError]:
        """Of requests that come together."""
        waiting = [self.submit(request) for request in requests]
        return [last(pieces) for pieces in waiting]


def last(pieces: queue.Queue[Piece | RequestError]) -> tuple[int, ...] | RequestError:
    while True:
        piece = pieces.get(timeout=60)
        if isinstance(piece, RequestError):
            return piece
        if piece.finish_reason is not None:
            return piece.tokens


@pytest.fixture
def start(tiny_model: Callable[..., Any]) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def begin(
        *,
        max_active: int = 8,
        stop_ids: frozenset[int] = STOP,
        poison: int = POISON,
        attention_backend: str = "cpu",
        **settings: Any,
    ) -> Running:
        model = tiny_model(tied=False)
        with torch.no_grad():
            model.get_input_embeddings().weight[poison] = torch.nan
            model.get_output_embeddings().weight[POISON] = 0.0
        backend = {"attention_backend": attention_backend, "max_cache_bytes": 2**24}
        engine = TorchEngine(model, stop_ids=stop_ids, max_active=max_active, **backend)
        running.append(Running(engine, **settings))
        return running[-1]

    yield begin
    for each in running:
        each.thread.close()


PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [14], [15, 16, 17]]


def healthy(temperature: float = 0.0) -> list[Asked]:
    return [asked(prompt, temperature=temperature) for prompt in PROMPTS]


def test_logits_that_are_no_numbers_end_their_own_completion_only(start: Callable[..., Running]) -> None:
    expected = start().results(healthy())
    assert all(isinstance(tokens, tuple) and POISON not in tokens for tokens in expected)
    for max_active in (2, 8):
        server = start(max_active=max_active)
        for place in range(len(PROMPTS) + 1):
            requests = healthy()
            requests.insert(place, asked([5, POISON]))
            results = server.results(requests)
            refused = results.pop(place)
            assert isinstance(refused, RequestError) and "non-finite" in str(refused) and refused.status == 500
            assert results == expected
        assert server.thread.num_open == 0


def test_those_under_way_keep_their_tokens_when_another_fails(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    (expected,) = start(stop_ids=frozenset()).results([asked([5, 6, 7], max_tokens=90, temperature=0)])
    assert isinstance(expected, tuple) and len(expected) == 90
    server = start(stop_ids=frozenset())
    begun, arrived = threading.Event(), threading.Event()
    step = CpuStep.run

    def slow(self: CpuStep, rows: Any, changed: bool) -> Any:
        if len(rows.sequences[0].tokens) == 10 and not begun.is_set():
            begun.set()
            assert arrived.wait(60)
        return step(self, rows, changed)

    monkeypatch.setattr(CpuStep, "run", slow)
    going = server.submit(asked([5, 6, 7], max_tokens=90, temperature=0))
    assert begun.wait(60)
    refused = server.submit(asked([POISON]))
    arrived.set()
    assert isinstance(last(refused), RequestError)
    assert last(going) == expected


@pytest.mark.parametrize("backend", ["cpu", "paged"])
def test_a_completion_that_overflows_on_its_way_spoils_no_other(start: Callable[..., Running], backend: str) -> None:
    """On a GPU without flash attention a step reads all blocks, and 0 times what is no number is none."""
    *expected, fate = start(attention_backend=backend).results([*healthy(), asked([18, 19], temperature=0)])
    assert isinstance(fate, tuple) and all(isinstance(r, tuple) for r in expected)
    met = {token for r in expected for token in r} | {token for prompt in PROMPTS for token in prompt}  # type: ignore[union-attr]
    poison = next(token for token in fate[2:-1] if token not in met)
    server = start(attention_backend=backend, poison=poison)
    *results, refused = server.results([*healthy(), asked([18, 19], temperature=0)])
    assert isinstance(refused, RequestError) and "non-finite" in str(refused)
    assert results == expected


def test_a_prompt_that_breaks_the_forward_pass_is_found_among_those_beside_it(
    start: Callable[..., Running], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = start().results(healthy())
    server = start()
    forward = Decoder.prompt_logits

    def fails(self: Decoder, ids: Any, lengths: Any, attention: Any) -> Any:
        if bool((ids == 20).any()):
            raise MemoryError("no memory for this prompt")
        return forward(self, ids, lengths, attention)

    monkeypatch.setattr(Decoder, "prompt_logits", fails)
    results = server.results([*healthy()[:2], asked([20, 20]), *healthy()[2:], asked([4, 20])])
    assert [r for r in results if isinstance(r, tuple)] == expected
    assert [str(r) for r in results if isinstance(r, RequestError)] == [
        "the engine failed: MemoryError: no memory for this prompt"
    ] * 2
    assert "no memory for this prompt" in caplog.text
    # However many they are, and however many completions one of them asks for.
    bad = [asked([20, n % 20], n=5) for n in range(2 * MAX_FAULTS)]
    results = server.results([*healthy()[:3], *bad, *healthy()[3:]])
    assert [r for r in results if isinstance(r, tuple)] == expected and len(results) == len(bad) + len(expected)
    assert server.engine.cache.allocator.num_used == 0


def test_a_text_that_cannot_be_decoded_ends_its_own_completion_only(start: Callable[..., Running]) -> None:
    def decode(ids: Sequence[int], skip_special_tokens: bool) -> str:
        if skip_special_tokens and len(ids) > 0:
            raise OverflowError("no such text")
        return "x" * len(ids)

    expected = start().results(healthy())
    for stream in (False, True):
        server = start(decode=decode)
        strange = asked([5], skip_special_tokens=True, stream=stream, temperature=0)
        *results, refused = server.results([*healthy(), strange])
        assert isinstance(refused, RequestError) and "OverflowError" in str(refused)
        assert results == expected and server.thread.num_open == 0


def test_tokens_that_cannot_be_scored_end_their_own_completion_only(start: Callable[..., Running]) -> None:
    expected = start().results(healthy())
    *results, refused = start().results([*healthy(), asked([5, POISON], echo=True, max_tokens=0)])
    assert isinstance(refused, RequestError) and "non-finite" in str(refused)
    assert results == expected


def test_a_sequence_that_the_cache_cannot_hold_is_refused(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    engine = TorchEngine(model, stop_ids=STOP, max_active=2, max_cache_bytes=35_000)
    server = Running(engine)
    try:
        fits, refused = server.results([asked([5], max_tokens=4), asked([5], max_tokens=99)])
    finally:
        server.thread.close()
    assert isinstance(fits, tuple) and len(fits) <= 4
    assert isinstance(refused, RequestError) and "do not fit into the server's cache" in str(refused)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_device_that_fails_at_every_step_is_said_to_have_failed(
    start: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start()

    def fails(*_: Any) -> Any:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Decoder, "prompt_logits", fails)
    monkeypatch.setattr(TorchEngine, "score", fails)
    results = server.results([asked([5]) for _ in range(MAX_FAULTS + 5)])
    assert all(isinstance(r, RequestError) and r.status == 500 for r in results)
    server.thread.close()
    with pytest.raises(RequestError, match="restart the server"):
        server.thread.check()


def test_a_tiny_temperature_beside_others_hurts_nobody(start: Callable[..., Running]) -> None:
    warm = healthy(0.7)
    expected = start().results(warm)
    cold = [asked([5, 6, 7], temperature=t) for t in (1e-39, 1e-45, 1e-300)]
    results = start().results([*warm[:2], *cold, *warm[2:]])
    assert results[:2] + results[5:] == expected
    assert results[2:5] == start().results([asked([5, 6, 7], temperature=0)]) * 3
    # Whoever builds requests in Python may still divide by too little: that ends the one completion.
    results = start().results([*warm, replace(cold[0], temperature=1e-39)])
    assert results[:-1] == expected and isinstance(results[-1], RequestError)
