"""A group of vLLM servers, over fake ones: shares, a server that dies and comes back, and a wrong model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from deepscaler.cluster import vllm_servers
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.cluster.thread_remote import IsCancelled, ThreadRemote
from deepscaler.engines.vllm_server import client as client_module
from deepscaler.engines.vllm_server.client import ServerClient
from deepscaler.engines.vllm_server.engine import PauseMode, ServerSettings, VllmServerEngine
from deepscaler.engines.vllm_server.ipc_wire import IpcWire
from deepscaler.engines.vllm_server.publishing import WeightPublisher
from deepscaler.engines.vllm_server.transfer_choice import Choice
from deepscaler.engines.vllm_server.weight_transfer import WeightTransferClient
from deepscaler.modeling.weights import LiveWeights, tensor_digests
from deepscaler.protocols import InterruptibleSampler
from deepscaler.types import FinishReason, Request, Rollout, RunError, SamplingParams
from fake_vllm_server import KEY, FakeVllmServer
from fake_weight_transfer import share

PARAMS = SamplingParams(max_completion_tokens=6, temperature=0.9, seed=5)
SETTINGS = ServerSettings(frozenset({1}), "float32", context=64, max_tokens=64)


def requests(count: int = 6) -> list[Request]:
    return [Request(f"p{i}", np.arange(2, 6 + i).astype(np.int32), 2) for i in range(count)]


def weights(version: int) -> LiveWeights:
    return LiveWeights(version, lambda: [("embed", torch.full((2, 2), float(version)))])


def engine_on(server: FakeVllmServer, way: str, is_cancelled: IsCancelled) -> VllmServerEngine:
    client = ServerClient(server.url, KEY)
    if way == "files":
        return VllmServerEngine(client, SETTINGS, is_cancelled)
    transfer = WeightTransferClient(client, IpcWire(share), {"embed": (2, 2)}, bucket_bytes=16)
    return VllmServerEngine(client, SETTINGS, is_cancelled, transfer=transfer, choice=Choice("ipc"))


@contextmanager
def grouped(
    *servers: FakeVllmServer, report: Callable[[str], object] = lambda text: None, way: str = "files"
) -> Iterator[SamplerGroup]:
    """Every server of the list; one that is started again is the same one, which has forgotten all."""
    remotes: list[ThreadRemote] = []

    def start(server: FakeVllmServer) -> ThreadRemote:
        if server.is_lost:
            server.begin_again()
        remote = ThreadRemote(partial(engine_on, server, way), lambda: None, server.url)
        remotes.append(remote)
        return remote

    starts = [lambda server=server: start(server) for server in servers]
    with vllm_servers.group_of(starts, remotes, report) as group:
        yield group


def test_two_servers_share_the_requests_and_every_completion_comes_once(tmp_path: Path) -> None:
    with FakeVllmServer() as one, FakeVllmServer() as two, grouped(one, two) as group:
        WeightPublisher(group, tmp_path, "float32").load_weights(weights(1))
        rollouts = list(group.generate(requests(), PARAMS))
    assert {(r.problem_id, r.sample_index) for r in rollouts} == {(f"p{i}", k) for i in range(6) for k in (0, 1)}
    assert len(rollouts) == 12 and {r.policy_version for r in rollouts} == {1}
    assert one.bodies and two.bodies and len(one.bodies) + len(two.bodies) == 12


def test_a_server_that_is_lost_gets_the_newest_weights_before_it_samples_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.001)
    told: list[str] = []
    with FakeVllmServer() as one, FakeVllmServer() as two, grouped(one, two, report=told.append) as group:
        WeightPublisher(group, tmp_path, "float32").load_weights(weights(1))
        two.is_lost = True
        rollouts = list(group.generate(requests(), PARAMS))
        assert {(r.problem_id, r.sample_index) for r in rollouts} == {(f"p{i}", k) for i in range(6) for k in (0, 1)}
        assert len(rollouts) == 12 and {r.policy_version for r in rollouts} == {1}
        assert len(list(group.generate(requests(), PARAMS))) == 12
        assert two.calls.count("deepscaler_load") == 2
    assert [text.partition(":")[0] for text in told] == ["vLLM server 1 was started again"]


def test_a_server_that_holds_other_weights_ends_the_run(tmp_path: Path) -> None:
    with FakeVllmServer() as one, FakeVllmServer() as two, grouped(one, two) as group:
        two.held = lambda digests: dict.fromkeys(digests, "0" * 64)
        with pytest.raises(
            RunError, match=rf"{two.url} holds other weights than version 1 in 1 of 1 tensors \(embed\)"
        ):
            WeightPublisher(group, tmp_path, "float32").load_weights(weights(1))


def test_an_abandoned_generation_leaves_the_group_usable() -> None:
    with FakeVllmServer(hold=True) as one, FakeVllmServer() as two, grouped(one, two) as group:
        going = group.generate(requests(), PARAMS)
        assert isinstance(going, Generator)
        next(going)
        going.close()
        one.released.set()
        assert len(list(group.generate(requests(), PARAMS))) == 12


def test_an_interrupted_generation_yields_every_completion_as_it_is(tmp_path: Path) -> None:
    with FakeVllmServer(hold=True) as one, FakeVllmServer(hold=True) as two, grouped(one, two) as group:
        publisher = WeightPublisher(group, tmp_path, "float32")
        assert isinstance(publisher, InterruptibleSampler)
        rollouts: list[Rollout] = []
        sampling = threading.Thread(target=lambda: rollouts.extend(publisher.generate(requests(), PARAMS)), daemon=True)
        sampling.start()
        for server in (one, two):
            assert server.started.acquire(timeout=20)
        publisher.interrupt()
        sampling.join(20)
        assert not sampling.is_alive()
    assert {(r.problem_id, r.sample_index) for r in rollouts} == {(f"p{i}", k) for i in range(6) for k in (0, 1)}
    assert len(rollouts) == 12 and {r.finish_reason for r in rollouts} == {FinishReason.CANCELLED}


def test_a_server_that_cannot_be_started_is_an_error_at_once() -> None:
    def fail(is_cancelled: object) -> None:
        raise RunError("it ended with exit code 3")

    remotes = [ThreadRemote(fail, lambda: None, "server 0")]
    with pytest.raises(RunError, match="exit code 3"), vllm_servers.group_of([lambda: remotes[0]], remotes):
        pass


@pytest.mark.parametrize(
    ("way", "phase"), [("files", "deepscaler_load"), ("ipc", "update_weights"), ("ipc", "finish_weight_update")]
)
def test_a_server_lost_inside_a_publish_comes_back_with_the_whole_version_and_no_completion_names_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str, phase: str
) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.001)
    told: list[str] = []
    with FakeVllmServer() as one, FakeVllmServer() as two, grouped(one, two, report=told.append, way=way) as group:
        publisher = WeightPublisher(group, tmp_path, "float32", Choice("ipc" if way == "ipc" else "files"))
        publisher.load_weights(weights(1))
        two.transfer.fails_in = {phase: 0}
        two.when_lost = two.transfer.fails_in.clear  # its successor is sound
        held = publisher.load_weights(weights(2))
        assert held.digest == weights(2).digest("float32")
        assert two.calls.count(phase) == 3
        rollouts = list(group.generate(requests(), PARAMS))
        assert len(rollouts) == 12
        assert {version for r in rollouts for version in r.token_versions.tolist()} == {2}
        assert two.bodies and {name for name, _ in group.generate_on_each(requests()[0], PARAMS)} == {
            "vLLM server 0",
            "vLLM server 1",
        }
    assert [text.partition(":")[0] for text in told] == ["vLLM server 1 was started again"]
    assert one.illegal == two.illegal == []


@pytest.mark.parametrize("way", ["files", "ipc"])
def test_a_server_lost_while_the_learner_updates_gets_what_was_published_and_not_what_came_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(client_module, "BACKOFF_S", 0.001)
    live = torch.full((2, 2), 1.0)
    with FakeVllmServer() as one, FakeVllmServer() as two, grouped(one, two, way=way) as group:
        publisher = WeightPublisher(group, tmp_path, "float32", Choice("ipc" if way == "ipc" else "files"))
        handle = LiveWeights(1, lambda: [("embed", live)])
        held = publisher.load_weights(handle)
        handle.expire()
        live += 1.0
        two.is_lost = True
        assert {r.policy_version for r in group.generate(requests(), PARAMS)} == {1}
        assert len(list(group.generate(requests(), PARAMS))) == 12
        assert two.held_digests() == tensor_digests(weights(1).tensors("float32"))
        assert held.digest == weights(1).digest("float32")


@pytest.mark.parametrize(("interrupt", "count"), [("keep", 1500), ("abort", 300)])
def test_a_pause_is_answered_while_many_completions_are_under_way(
    tmp_path: Path, interrupt: PauseMode, count: int
) -> None:
    many = [Request(f"p{i}", np.arange(2, 6).astype(np.int32), 15) for i in range(count // 15)]
    short = replace(PARAMS, max_completion_tokens=2)
    with FakeVllmServer(hold=True) as server:
        engine = VllmServerEngine(ServerClient(server.url, KEY), replace(SETTINGS, interrupt=interrupt))
        rollouts: list[Rollout] = []
        sampling = threading.Thread(target=lambda: rollouts.extend(engine.generate(many, short)), daemon=True)
        sampling.start()
        for _ in range(count):
            assert server.started.acquire(timeout=20)
        publisher = WeightPublisher(engine, tmp_path, "float32")
        publisher.load_weights(weights(2))
        assert rollouts == []  # the update did not wait for one of them
        server.released.set()
        sampling.join(60)
        engine.close()
    assert len({(r.problem_id, r.sample_index) for r in rollouts}) == len(rollouts) == count
    newest = {r.token_versions.tolist()[-1] for r in rollouts}
    assert newest == {2} and server.illegal == []
    assert len(server.bodies) == (count if interrupt == "keep" else 2 * count)


def test_when_every_server_fails_in_a_phase_the_run_ends_with_the_servers_words(tmp_path: Path) -> None:
    with FakeVllmServer() as server, grouped(server, way="ipc") as group:
        server.transfer.fails_in = {"start_weight_update": 500}
        publisher = WeightPublisher(group, tmp_path, "float32", Choice("ipc"))
        with pytest.raises(RunError, match=r"no sampler is left .*planted in start_weight_update.*= 'files'"):
            publisher.load_weights(weights(1))
    assert server.calls.count("start_weight_update") == 4  # started again three times
    assert server.bodies == []
