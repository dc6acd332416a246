"""A vLLM server as a sampler, over a fake server: what is asked, what is refused, and updates at any moment."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.engines.vllm_server import client as client_module
from deepscaler.engines.vllm_server import engine as engine_module
from deepscaler.engines.vllm_server.client import ServerClient, VllmServerError
from deepscaler.engines.vllm_server.engine import ServerSettings, VllmServerEngine
from deepscaler.engines.vllm_server.publishing import WeightPublisher
from deepscaler.modeling.published_files import FileWeights, write_weights
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.types import FinishReason, Request, Rollout, RunError, SamplingParams
from fake_vllm_server import KEY, FakeVllmServer

STOP = frozenset({1})
PARAMS = SamplingParams(max_completion_tokens=6, temperature=0.9, seed=5, step=2, stop_token_ids=(3,))
SETTINGS = ServerSettings(STOP, "float32", context=64, max_tokens=32)


@contextmanager
def opened(server: FakeVllmServer, **changes: Any) -> Iterator[VllmServerEngine]:
    with server:
        engine = VllmServerEngine(ServerClient(server.url, KEY), replace(SETTINGS, **changes))
        try:
            yield engine
        finally:
            engine.close()
    assert server.illegal == []


def requests(count: int = 3, samples: int = 2) -> list[Request]:
    return [Request(f"p{i}", np.arange(2, 6 + i).astype(np.int32), samples, first_sample_index=1) for i in range(count)]


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(4, 3, generator=generator) for name in ("embed", "head", "norm")}


def published(tmp_path: Path, version: int) -> FileWeights:
    return write_weights(tmp_path, version, weights(version).items(), "float32")


class Sampling(threading.Thread):
    """A generation in a thread of its own. Its rollouts, or what it raised."""

    def __init__(self, engine: VllmServerEngine) -> None:
        super().__init__(daemon=True)
        self._engine = engine
        self.rollouts: list[Rollout] = []

    def run(self) -> None:
        self.rollouts += self._engine.generate(requests(), PARAMS)

    def finished(self) -> list[Rollout]:
        self.join(20)
        assert not self.is_alive()
        return self.rollouts


def started(engine: VllmServerEngine, server: FakeVllmServer) -> Sampling:
    """All its completions are under way."""
    sampling = Sampling(engine)
    sampling.start()
    for _ in range(6):
        assert server.started.acquire(timeout=20)
    return sampling


def test_every_completion_has_its_own_seed_and_ids_and_log_probabilities_are_the_servers() -> None:
    server = FakeVllmServer()
    with opened(server) as engine:
        rollouts = list(engine.generate(requests(), PARAMS))
    assert {(r.problem_id, r.sample_index) for r in rollouts} == {(f"p{i}", k) for i in range(3) for k in (1, 2)}
    for r in rollouts:
        np.testing.assert_allclose(r.rollout_logprobs, -r.completion_ids / 10, rtol=1e-6)
        assert (r.num_tokens, r.finish_reason, r.policy_version) == (6, FinishReason.LENGTH, 0)
    sent = [body["sampling_params"] for body in server.bodies]
    assert len({params["seed"] for params in sent}) == 6
    wanted = {"temperature": 0.9, "max_tokens": 6, "stop_token_ids": [1, 3], "ignore_eos": True, "detokenize": False}
    assert all({name: params[name] for name in wanted} == wanted for params in sent)


def test_what_does_not_fit_is_refused_before_anything_is_asked() -> None:
    server = FakeVllmServer()
    with opened(server) as engine:
        for tokens, message in ((61, "exceeds the model's context of 64"), (30, "exceeds the engine's limit of 32")):
            with pytest.raises(ValueError, match=message):
                list(engine.generate(requests(), replace(PARAMS, max_completion_tokens=tokens)))
        with pytest.raises(ValueError, match="cannot end completions at 'x'"):
            list(engine.generate(requests(), replace(PARAMS, stop=("x",))))
    assert server.bodies == []


@pytest.mark.parametrize("untruncated", [True, False])
def test_log_probabilities_after_top_k_count_as_unknown(untruncated: bool) -> None:
    with opened(FakeVllmServer(), untruncated=untruncated) as engine:
        narrowed = list(engine.generate(requests(), replace(PARAMS, top_k=3)))
        assert all(np.isnan(r.rollout_logprobs).all() != untruncated for r in narrowed)
        assert all(np.isfinite(r.rollout_logprobs).all() for r in engine.generate(requests(), PARAMS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finish_reason": "error"}, r"the vLLM server http://127\.0\.0\.1:\d+ ended a completion of .* with 'error'"),
        ({"token_ids": [2, 3]}, "reported log-probabilities of other tokens than it sampled"),
        ({"logprobs": {"content": []}}, "reported log-probabilities of other tokens"),
    ],
)
def test_an_answer_that_cannot_be_trained_on_ends_the_generation(change: dict[str, Any], message: str) -> None:
    server = FakeVllmServer()
    server.changed_choice = lambda choice: {**choice, **change}
    with opened(server) as engine, pytest.raises(VllmServerError, match=message):
        list(engine.generate(requests(), PARAMS))


def test_logits_that_are_not_finite_end_the_generation() -> None:
    server = FakeVllmServer()
    server.changed_choice = lambda choice: {
        **choice,
        "logprobs": {"content": [{**token, "logprob": -9999.0} for token in choice["logprobs"]["content"]]},
    }
    with opened(server) as engine, pytest.raises(RunError, match="non-finite logits"):
        list(engine.generate(requests(), PARAMS))


def test_dropped_connections_are_asked_again_and_change_no_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.001)
    server, calm = FakeVllmServer(), FakeVllmServer()
    server.drop_connections = 3
    with opened(server) as engine, opened(calm) as other:
        found, expected = (
            {(r.problem_id, r.sample_index): r.completion_ids.tolist() for r in each.generate(requests(), PARAMS)}
            for each in (engine, other)
        )
    assert found == expected


def test_a_server_that_is_gone_or_silent_ends_the_generation_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.001)
    server = FakeVllmServer()
    with opened(server) as engine:
        server.drop_connections = 1000
        with pytest.raises(VllmServerError, match=f"the vLLM server {server.url} cannot be reached"):
            list(engine.generate(requests(), PARAMS))
    monkeypatch.setattr(client_module, "WATCH_S", 0.01)
    monkeypatch.setattr(client_module, "SILENCE_S", 0.05)
    with opened(FakeVllmServer(hold=True)) as engine, pytest.raises(VllmServerError, match="has made no token for"):
        list(engine.generate(requests(), PARAMS))


def test_published_weights_are_loaded_between_pause_and_resume_and_read_back(tmp_path: Path) -> None:
    server = FakeVllmServer()
    server.failed_resets = 2
    given = LiveWeights(7, weights(7).items)
    with opened(server) as engine:
        held = WeightPublisher(engine, tmp_path, "float32").load_weights(given)
        assert {r.policy_version for r in engine.generate(requests(), PARAMS)} == {7}
        assert engine.weights_info() == held
    assert (held.version, held.digest) == (7, weights_digest(weights(7).items()))
    assert held.num_bytes > 3 * 4 * 3 * 4
    assert server.calls[:2] == ["pause abort", "deepscaler_load"]
    assert server.calls[2:6] == ["reset false", "reset false", "reset false", "resume"]


def test_of_published_versions_only_the_newest_stays_on_disk(tmp_path: Path) -> None:
    with opened(FakeVllmServer()) as engine:
        publisher = WeightPublisher(engine, tmp_path, "float32")
        for version in (1, 2, 3):
            publisher.load_weights(LiveWeights(version, weights(version).items))
    assert [path.name for path in tmp_path.iterdir()] == ["version-3"]


def test_a_server_that_holds_other_weights_never_samples_again_and_the_tensors_are_named(tmp_path: Path) -> None:
    server = FakeVllmServer()
    server.held = lambda digests: {**digests, "head": "0" * 64}
    with opened(server) as engine:
        with pytest.raises(RunError, match=r"other weights than version 2 in 1 of 3 tensors \(head\)"):
            engine.load_weights(published(tmp_path, 2))
        for use in (
            lambda: list(engine.generate(requests(), PARAMS)),
            lambda: engine.load_weights(published(tmp_path, 3)),
        ):
            with pytest.raises(RunError, match="start a new server"):
                use()
    assert "resume" not in server.calls and server.bodies == []


def test_a_failed_load_and_a_cache_that_stays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "RESET_WAIT_S", 0.001)
    for fault, message in (
        ("load", "could not load weights: OSError: half a file"),
        ("cache", "did not drop its cache"),
    ):
        server = FakeVllmServer()
        if fault == "load":
            server.load_error = {"error": "OSError: half a file", "changed": True}
        else:
            server.failed_resets = 10**6
        with opened(server) as engine:
            with pytest.raises(VllmServerError, match=message):
                engine.load_weights(published(tmp_path, 1))
            with pytest.raises(RunError, match="is broken"):
                list(engine.generate(requests(), PARAMS))


def test_weights_that_were_not_copied_are_refused() -> None:
    with (
        opened(FakeVllmServer()) as engine,
        pytest.raises(ValueError, match="as files or from host memory"),
    ):
        engine.load_weights(LiveWeights(1, weights(1).items))


def test_keep_goes_on_with_the_new_weights_and_the_oldest_version_counts(tmp_path: Path) -> None:
    server = FakeVllmServer(hold=True)
    with opened(server, interrupt="keep") as engine:
        engine.load_weights(published(tmp_path, 1))
        sampling = started(engine, server)
        engine.load_weights(published(tmp_path, 2))
        server.released.set()
        rollouts = sampling.finished()
        assert {(r.policy_version, r.later_versions) for r in rollouts} == {(1, ((1, 2),))}
        assert rollouts[0].token_versions.tolist() == [1, 2, 2, 2, 2, 2]
        assert {r.policy_version for r in engine.generate(requests(), PARAMS)} == {2}
    assert len(server.bodies) == 12
    assert server.calls[4:] == ["pause keep", "deepscaler_load", "reset true", "resume"]


def test_wait_finishes_what_is_under_way_with_the_old_weights(tmp_path: Path) -> None:
    server = FakeVllmServer(hold=True)
    with opened(server, interrupt="wait") as engine:
        sampling = started(engine, server)
        update = threading.Thread(target=engine.load_weights, args=(published(tmp_path, 2),), daemon=True)
        update.start()
        server.released.set()
        assert {r.policy_version for r in sampling.finished()} == {0}
        update.join(20)
    assert server.calls[:1] == ["pause wait"] and len(server.bodies) == 6


@pytest.mark.parametrize("late", [False, True])
def test_abort_samples_again_with_the_new_weights_and_refuses_late_tokens(tmp_path: Path, late: bool) -> None:
    server = FakeVllmServer(hold=True)
    server.late_tokens = late
    with opened(server, interrupt="abort") as engine:
        sampling = started(engine, server)
        engine.load_weights(published(tmp_path, 2))
        server.released.set()
        rollouts = sampling.finished()
    assert {(r.problem_id, r.sample_index) for r in rollouts} == {(f"p{i}", k) for i in range(3) for k in (1, 2)}
    assert len(rollouts) == 6 and {r.policy_version for r in rollouts} == {2}
    assert len(server.bodies) == 12


@pytest.mark.parametrize("level", [1, 2])
def test_asleep_the_weights_wake_before_the_update_and_the_cache_after_it(tmp_path: Path, level: int) -> None:
    server = FakeVllmServer()
    with opened(server, sleep_level=level) as engine:
        engine.release_memory()
        engine.release_memory()  # asleep already
        with pytest.raises(RunError, match="is asleep: it cannot sample; wake it first"):
            list(engine.generate(requests(), PARAMS))
        engine.load_weights(published(tmp_path, 3))
        assert len(list(engine.generate(requests(), PARAMS))) == 6
    assert server.calls == [f"sleep {level}", "wake weights", "deepscaler_load", "reset false", "wake kv_cache"]


def test_a_cancelled_generation_yields_what_there_is_and_is_continued_up_to_the_same_budget() -> None:
    server = FakeVllmServer(hold=True)
    with opened(server) as engine:
        sampling = started(engine, server)
        engine.interrupt()
        begun = sampling.finished()
        assert {(r.finish_reason, r.num_tokens) for r in begun} == {(FinishReason.CANCELLED, 2)} and len(begun) == 6
        server.released.set()
        again = [Request(r.problem_id, r.prompt_ids, 1, r.sample_index, begun=r) for r in begun]
        rollouts = {(r.problem_id, r.sample_index): r for r in engine.generate(again, PARAMS)}
    for before in begun:
        after = rollouts[before.problem_id, before.sample_index]
        assert (after.num_tokens, after.finish_reason) == (6, FinishReason.LENGTH)
        assert after.completion_ids[:2].tolist() == before.completion_ids.tolist()
        np.testing.assert_allclose(after.rollout_logprobs, -after.completion_ids / 10, rtol=1e-6)
    first, later = server.bodies[:6], server.bodies[6:]
    assert {len(body["token_ids"]) for body in later} == {6, 7, 8}
    seeds = {body["sampling_params"]["seed"] for body in (*first, *later)}
    assert len(seeds) == 12  # continued with draws of their own


def test_an_abandoned_generation_leaves_the_server_usable() -> None:
    server = FakeVllmServer()
    with opened(server) as engine:
        going = engine.generate(requests(), PARAMS)
        assert isinstance(going, Generator)
        next(going)
        going.close()
        assert len(list(engine.generate(requests(), PARAMS))) == 6


def test_without_the_key_nothing_is_answered() -> None:
    with FakeVllmServer() as server:
        engine = VllmServerEngine(ServerClient(server.url, "another"), SETTINGS)
        with pytest.raises(VllmServerError, match="HTTP 401: the key is missing or another one"):
            list(engine.generate(requests(), PARAMS))
        engine.close()
