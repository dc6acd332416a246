"""Which way weights take into a vLLM server, by what its workers and this process can do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepscaler.engines.vllm_server.opening import gpus_of
from deepscaler.engines.vllm_server.publishing import common_choice
from deepscaler.engines.vllm_server.transfer_choice import (
    PHASES,
    Choice,
    LearnerDevices,
    WeightTransfer,
    Worker,
    choose,
    server_backend,
)

ARGUMENTS = ("tensor_cls", "storage_handle")
IPC = Worker("ipc", "GPU-1", True, ARGUMENTS, ("2", "28"))
NCCL = replace(IPC, backend="nccl", unpickles=False)
LEARNER = LearnerDevices({"GPU-0": 0, "GPU-1": 1, "GPU-2": 2}, "GPU-0", ARGUMENTS, ("2", "28"))
FAR = replace(LEARNER, gpus={"GPU-0": 0})
ON_CPU = LearnerDevices({}, "", ARGUMENTS, ())


def chosen(
    *workers: Worker, wanted: WeightTransfer = "auto", learner: LearnerDevices = LEARNER, lacks: str = ""
) -> Choice:
    return choose(wanted, [path for path in PHASES if path != lacks], workers, learner, "the vLLM server u")


def test_what_a_server_was_started_for_is_taken_where_nothing_speaks_against_it() -> None:
    assert chosen(IPC, replace(IPC, gpu="GPU-2")) == chosen(IPC, wanted="ipc") == Choice("ipc")
    assert chosen(NCCL) == chosen(NCCL, wanted="nccl") == chosen(NCCL, learner=FAR) == Choice("nccl")
    assert chosen(replace(IPC, gpu="GPU-0")) == Choice("ipc")  # on the learner's GPU
    assert chosen(IPC, wanted="files") == Choice("files")


@pytest.mark.parametrize(
    ("worker", "learner", "lacks", "reason"),
    [
        (replace(IPC, gpu=""), LEARNER, "", "run on CPU"),
        (replace(IPC, backend=""), LEARNER, "", "without --weight-transfer-config"),
        (IPC, LEARNER, "/finish_weight_update", "has no /finish_weight_update"),
        (IPC, ON_CPU, "", "the learner sees no GPU"),
        (IPC, FAR, "", "does not see its GPU GPU-1"),
        (replace(IPC, unpickles=False), LEARNER, "", "VLLM_ALLOW_INSECURE_SERIALIZATION"),
        (replace(IPC, handle_arguments=("other",)), LEARNER, "", "in another form"),
        (replace(NCCL, nccl=("2", "27")), LEARNER, "", r"its NCCL is 2\.27, the learner's 2\.28"),
        (replace(NCCL, gpu="GPU-0"), LEARNER, "", "shares the learner's GPU"),
    ],
)
def test_else_files_are_taken_for_a_stated_reason_and_what_was_asked_for_is_refused(
    worker: Worker, learner: LearnerDevices, lacks: str, reason: str
) -> None:
    found = chosen(IPC, worker, learner=learner, lacks=lacks) if worker.backend == "ipc" else None
    found = found or chosen(worker, learner=learner, lacks=lacks)
    assert found.way == "files"
    for wanted in ("ipc", "nccl"):
        with pytest.raises(ValueError, match=rf"vllm_weight_transfer = '{wanted}' is not possible with the .*{reason}"):
            chosen(worker, wanted=wanted, learner=learner, lacks=lacks)


def test_another_way_than_the_server_was_started_for_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'nccl' is not possible .* it was started for 'ipc'\. Set"):
        chosen(IPC, wanted="nccl")


def test_several_servers_take_files_where_one_of_them_does() -> None:
    assert common_choice([Choice("ipc"), Choice("nccl")]).way == "ipc"
    assert common_choice([Choice("ipc"), Choice("files", "why")]) == Choice("files", "why")


@pytest.mark.parametrize(
    ("wanted", "on_gpu", "backend"),
    [
        ("auto", True, "ipc"),
        ("nccl", True, "nccl"),
        ("files", True, "files"),
        ("auto", False, "files"),
        ("ipc", False, "files"),
    ],
)
def test_servers_of_this_machine_are_started_for_what_it_allows(
    wanted: WeightTransfer, on_gpu: bool, backend: str
) -> None:
    assert server_backend(wanted, on_gpu=on_gpu) == backend


@pytest.mark.parametrize(
    ("count", "each", "servers"),
    [
        (1, 1, [[0], [0]]),
        (4, 1, [[1], [2], [3], [1]]),
        (5, 2, [[1, 2], [3, 4], [1, 2]]),
        (4, 2, [[1, 2], [1, 2]]),
        (2, 2, [[0, 1], [0, 1]]),
    ],
)
def test_servers_take_the_gpus_beside_the_learners_in_turn(count: int, each: int, servers: list[list[int]]) -> None:
    assert [gpus_of(index, count, each) for index in range(len(servers))] == servers


def test_more_gpus_of_a_server_than_there_are_is_an_error() -> None:
    with pytest.raises(ValueError, match="ask for 4 GPUs a server, this machine has 2"):
        gpus_of(0, 2, 4)
