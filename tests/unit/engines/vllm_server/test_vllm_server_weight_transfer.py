"""vLLM's weight transfer over a fake server: the order of its phases, what arrives, and a failure in each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from deepscaler.engines.vllm_server.client import ServerClient, VllmServerError
from deepscaler.engines.vllm_server.engine import ServerSettings, VllmServerEngine
from deepscaler.engines.vllm_server.ipc_wire import IpcWire
from deepscaler.engines.vllm_server.nccl_wire import NcclWire
from deepscaler.engines.vllm_server.publishing import WeightPublisher
from deepscaler.engines.vllm_server.transfer_choice import Choice
from deepscaler.engines.vllm_server.weight_transfer import WeightTransferClient, Wire, buckets
from deepscaler.modeling.host_weights import host_copy
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.types import Request, RunError, SamplingParams
from fake_vllm_server import KEY, FakeVllmServer
from fake_weight_transfer import BUFFERS, FakeGroup, share

PARAMS = SamplingParams(max_completion_tokens=6, temperature=0.9, seed=5)
SHAPES = {"embed": (8, 3), "up_proj.weight": (4, 4), "norm": (3,), "head": (2, 8)}
BUCKET_BYTES = 100  # float32: the embedding; the projection and the norm; the head
PHASES = ("init_weight_transfer_engine", "start_weight_update", "update_weights", "finish_weight_update")
WIRES: dict[str, Callable[[], Wire]] = {"ipc": lambda: IpcWire(share), "nccl": lambda: NcclWire(1, FakeGroup)}


def weights(version: int, shapes: dict[str, tuple[int, ...]] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(version)
    return {name: torch.randn(shape, generator=generator) for name, shape in (shapes or SHAPES).items()}


def published(version: int, shapes: dict[str, tuple[int, ...]] | None = None) -> LiveWeights:
    return LiveWeights(version, lambda: weights(version, shapes).items())


@contextmanager
def opened(server: FakeVllmServer, way: str, dtype: str = "float32", sleep_level: int = 0) -> Iterator[WeightPublisher]:
    client = ServerClient(server.url, KEY)
    transfer = WeightTransferClient(client, WIRES[way](), SHAPES, BUCKET_BYTES)
    settings = ServerSettings(frozenset({1}), dtype, context=64, max_tokens=32, sleep_level=sleep_level)
    engine = VllmServerEngine(client, settings, transfer=transfer, choice=Choice("ipc"))
    try:
        yield WeightPublisher(engine, Path("/nowhere"), dtype, Choice("ipc"))
    finally:
        engine.close()


def versions(sampler: WeightPublisher) -> set[int]:
    asked = [Request("p", np.arange(2, 6).astype(np.int32), 3)]
    return {version for r in sampler.generate(asked, PARAMS) for version in r.token_versions.tolist()}


@pytest.mark.parametrize("way", WIRES)
def test_the_phases_come_in_order_inside_a_pause_and_the_connection_is_made_once(way: str) -> None:
    with FakeVllmServer() as server, opened(server, way) as sampler:
        for version in (4, 5):
            held = sampler.load_weights(published(version))
            assert (held.version, held.digest) == (version, weights_digest(weights(version).items()))
            assert held.num_bytes == 4 * sum(int(np.prod(shape)) for shape in SHAPES.values())
            assert versions(sampler) == {version}
        update = ["start_weight_update", *["update_weights"] * 3, "finish_weight_update", "deepscaler_digests"]
        around = [["pause abort"], [*update, "reset false", "resume"]]
        assert server.calls == [*around[0], "init_weight_transfer_engine", *around[1], *around[0], *around[1]]
        assert [info["names"] for info in server.transfer.updates[:3]] == [
            ["embed"],
            ["up_proj.weight", "norm"],
            ["head"],
        ]
        assert server.transfer.updates[1]["dtype_names"] == ["float32", "float32"]
        assert server.transfer.updates[1]["shapes"] == [[4, 4], [3]]
        assert server.illegal == []


@pytest.mark.parametrize("way", WIRES)
def test_weights_arrive_in_the_precision_of_the_engine(way: str) -> None:
    with FakeVllmServer(dtype="bfloat16") as server, opened(server, way, "bfloat16") as sampler:
        held = sampler.load_weights(published(4))
        assert held.digest == weights_digest(weights(4).items(), torch.bfloat16)
        assert {name for info in server.transfer.updates for name in info["dtype_names"]} == {"bfloat16"}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("way", WIRES)
def test_after_a_failure_in_any_phase_nothing_is_sampled_until_a_new_client_published_whole(
    way: str, phase: str
) -> None:
    with FakeVllmServer() as server:
        with opened(server, way) as sampler:
            server.transfer.fails_in, server.transfer.updates_before_failure = {phase: 400}, 2
            with pytest.raises(
                VllmServerError, match=rf"answered /{phase} with HTTP 400: planted in {phase}\..* = 'files'"
            ):
                sampler.load_weights(published(4))
            for use in (lambda: versions(sampler), lambda: sampler.load_weights(published(5))):
                with pytest.raises(RunError, match="is broken"):
                    use()
            assert server.bodies == [] and "resume" not in server.calls
        server.transfer.fails_in = {}
        server.begin_again()
        with opened(server, way) as again:
            again.load_weights(published(5))
            assert versions(again) == {5}
        assert server.illegal == []


@pytest.mark.parametrize("way", WIRES)
def test_one_bit_that_changed_on_the_way_is_found_and_its_tensor_named(way: str) -> None:
    def flip(name: str, tensor: Tensor) -> Tensor:
        if name == "norm":
            tensor.view(torch.int32)[1] ^= 1
        return tensor

    with FakeVllmServer() as server, opened(server, way) as sampler:
        server.transfer.changed = flip
        with pytest.raises(RunError, match=r"other weights than version 4 in 1 of 4 tensors \(norm\)"):
            sampler.load_weights(published(4))
        with pytest.raises(RunError, match="is broken"):
            versions(sampler)


@pytest.mark.parametrize("level", [1, 2])
@pytest.mark.parametrize("way", WIRES)
def test_a_server_that_gave_its_gpu_to_the_learner_wakes_its_weights_alone_for_the_update(way: str, level: int) -> None:
    with FakeVllmServer() as server, opened(server, way, sleep_level=level) as sampler:
        sampler.release_memory()
        with pytest.raises(RunError, match="is asleep"):
            versions(sampler)
        sampler.load_weights(published(4))
        assert versions(sampler) == {4}
        assert server.calls[:3] == [f"sleep {level}", "wake weights", "init_weight_transfer_engine"]
        assert server.calls[-2:] == ["reset false", "wake kv_cache"] and server.illegal == []


@pytest.mark.parametrize("phase", PHASES)
def test_weights_dropped_in_sleep_are_never_sampled_from_when_the_reload_fails(phase: str) -> None:
    with FakeVllmServer() as server, opened(server, "ipc", sleep_level=2) as sampler:
        sampler.release_memory()
        server.transfer.fails_in = {phase: 400}
        with pytest.raises(VllmServerError, match="planted"):
            sampler.load_weights(published(4))
        with pytest.raises(RunError, match="is broken"):
            versions(sampler)
        assert server.bodies == [] and "wake kv_cache" not in server.calls


def test_a_server_that_names_another_version_after_the_last_phase_never_samples() -> None:
    with FakeVllmServer() as server, opened(server, "ipc") as sampler:
        server.transfer.wrong_version = True
        with pytest.raises(RunError, match="names version 0 after an update to version 4 was finished"):
            sampler.load_weights(published(4))
        with pytest.raises(RunError, match="is broken"):
            versions(sampler)


@pytest.mark.parametrize(
    ("shapes", "named"),
    [
        ({**SHAPES, "norm": (4,)}, "norm"),
        ({name: SHAPES[name] for name in SHAPES if name != "head"}, "head"),
        ({**SHAPES, "unheard_of": (2,)}, "unheard_of"),
    ],
)
def test_weights_of_another_model_are_refused_before_the_server_is_told(
    shapes: dict[str, tuple[int, ...]], named: str
) -> None:
    with FakeVllmServer() as server, opened(server, "ipc") as sampler:
        with pytest.raises(ValueError, match=rf"1 differ in name or shape \({named}\)"):
            sampler.load_weights(published(4, shapes))
        assert server.calls == []
        sampler.load_weights(published(4))  # nothing is broken
        assert versions(sampler) == {4}


def test_what_was_published_stays_when_the_learner_goes_on() -> None:
    live = weights(4)
    copy = host_copy(LiveWeights(4, live.items), "float32")
    live["norm"] += 1.0
    assert copy.digest("float32") == weights_digest(weights(4).items()) == weights_digest(copy.tensors("float32"))
    with pytest.raises(ValueError, match="published in float32"):
        copy.digest("bfloat16")


def test_a_group_whose_server_refuses_is_ended_and_the_servers_words_are_raised() -> None:
    groups: list[FakeGroup] = []

    def new_group() -> FakeGroup:
        groups.append(FakeGroup())
        return groups[-1]

    with FakeVllmServer() as server:
        client = ServerClient(server.url, KEY)
        server.transfer.fails_in = {"init_weight_transfer_engine": 400}
        with pytest.raises(VllmServerError, match="planted in init"):
            NcclWire(1, new_group).connect(client)
        client.close()
    assert [group.is_closed for group in groups] == [True]


@pytest.mark.parametrize("most_bytes", [1, 100, 10**6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buckets_hold_every_weight_once_in_order_and_no_more_bytes_than_asked(
    most_bytes: int, dtype: torch.dtype
) -> None:
    given = {name: weight.to(dtype) for name, weight in weights(1).items()}
    made = list(buckets(given, most_bytes))
    assert [name for bucket in made for name, _ in bucket.weights] == list(given)
    assert all(sum(bucket.sizes) <= most_bytes or len(bucket.weights) == 1 for bucket in made)
    for bucket in made:
        packed = bucket.pack(torch.zeros(sum(bucket.sizes) + 5, dtype=torch.uint8))
        parts = packed.split(bucket.sizes)
        for (_, weight), part in zip(bucket.weights, parts, strict=True):
            assert torch.equal(part.view(dtype).reshape(weight.shape), weight)


def test_the_shared_buffer_is_as_large_as_the_largest_bucket_and_no_larger() -> None:
    before = len(BUFFERS)
    with FakeVllmServer() as server, opened(server, "ipc") as sampler:
        sampler.load_weights(published(4))
    assert [buffer.numel() for buffer in list(BUFFERS.values())[before:]] == [BUCKET_BYTES]


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        (Choice("files"), []),
        (
            Choice("files", "its workers run on CPU"),
            ["weights go into the vLLM servers by files: its workers run on CPU"],
        ),
        (Choice("ipc"), ["weights go into the vLLM servers by vLLM's weight transfer over CUDA IPC"]),
    ],
)
def test_the_way_that_was_chosen_is_told_once_and_with_its_reason(
    tmp_path: Path, choice: Choice, told: list[str]
) -> None:
    said: list[str] = []
    with FakeVllmServer() as server, opened(server, "ipc") as sampler:
        publisher = WeightPublisher(sampler, tmp_path, "float32", choice, said.append)
        for version in (4, 5):
            publisher.load_weights(published(version))
        assert versions(publisher) == {5}
    assert said == told
