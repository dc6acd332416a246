"""On a CUDA device: CUDA IPC handles and NCCL as vLLM's weight transfer uses them, and a vLLM server that takes both.

Run with `make test ARGS="-m gpu"`. The tests with vLLM need DEEPSCALER_VLLM_PYTHON, the Python of an environment that
has vLLM with CUDA; NCCL between learner and server needs two GPUs.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from deepscaler.config.evaluation import EngineSection
from deepscaler.engines.vllm_server.engine import ServerSettings
from deepscaler.engines.vllm_server.ipc_wire import share_on
from deepscaler.engines.vllm_server.nccl_group import NcclGroup
from deepscaler.engines.vllm_server.opening import ServedModel, ServerStarter
from deepscaler.engines.vllm_server.publishing import WeightPublisher
from deepscaler.engines.vllm_server.transfer_choice import Choice, LearnerDevices
from deepscaler.engines.vllm_server.weight_transfer import buckets
from deepscaler.modeling.positions import model_context
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.types import Request, SamplingParams

VLLM_PYTHON = os.environ.get("DEEPSCALER_VLLM_PYTHON", "")
LIMIT_S = 60.0
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.timeout(600),
]
needs_vllm = pytest.mark.skipif(not VLLM_PYTHON, reason="needs DEEPSCALER_VLLM_PYTHON, an environment with vLLM")


def read_buffer(pickled: bytes, asked: Any) -> None:
    """A server's worker: opens the buffer once and answers the digest of its first bytes, as often as it is asked."""
    arguments = list(pickle.loads(pickled))
    arguments[6] = 0  # as vLLM: the device in this process
    buffer = rebuild_cuda_tensor(*arguments)
    while (size := asked.recv()) > 0:
        asked.send(hashlib.sha256(buffer[:size].cpu().numpy().tobytes()).hexdigest())
    del buffer


def test_another_process_reads_every_bucket_from_the_one_shared_buffer() -> None:
    weights = {f"w{i}": torch.randn(1000, 100 + i).to(torch.bfloat16) for i in range(6)}
    learner = LearnerDevices.here()
    shared = share_on({learner.own_gpu: torch.cuda.current_device()})(2**20)
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    reader = context.Process(target=read_buffer, args=(pickle.dumps(shared.handles[learner.own_gpu]), theirs))
    reader.daemon = True
    reader.start()
    made = list(buckets(weights, 2**20))
    assert len(made) > 1
    for bucket in made:
        filled = bucket.pack(shared.buffers[0])
        torch.cuda.synchronize()
        ours.send(filled.numel())
        assert ours.poll(LIMIT_S)
        assert ours.recv() == hashlib.sha256(filled.cpu().numpy().tobytes()).hexdigest()
    ours.send(0)
    reader.join(LIMIT_S)
    assert reader.exitcode == 0


def test_a_group_of_one_reduces_and_broadcasts() -> None:
    group = NcclGroup(torch.device("cuda", torch.cuda.current_device()))
    unique_id = group.unique_id()
    assert len(unique_id) == 128
    group.join(unique_id, 1, lambda: False)
    buffer = group.empty(2**20)
    buffer.copy_(torch.arange(2**20, dtype=torch.int64).to(torch.uint8))
    before = buffer.clone()
    group.broadcast(buffer, lambda: False)
    assert torch.equal(buffer, before)
    group.close()


@pytest.fixture(
    params=[
        "ipc",
        pytest.param("nccl", marks=pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")),
    ]
)
def sampler(
    request: pytest.FixtureRequest, tiny_model: Callable[..., Any], tmp_path: Path
) -> Iterator[WeightPublisher]:
    """A server of a random model, with the first weights."""
    model = tiny_model("llama", head_dim=64)
    model.save_pretrained(tmp_path / "model")
    context = model_context(model.config)
    settings = ServerSettings(frozenset({1}), "bfloat16", context, context, weight_transfer=request.param)
    section = EngineSection(
        kind="vllm_server",
        vllm_python=VLLM_PYTHON,
        vllm_args=("--gpu-memory-utilization=0.2", "--enforce-eager"),
        max_active=16,
    )
    served = ServedModel(tmp_path / "model", model.config, (), on_gpu=True)
    starter = ServerStarter(served, section, settings, tmp_path / "logs")
    process = starter.start(tmp_path / "model", 0)
    engine = None
    try:
        engine = starter.connect(process)
        assert engine.weight_transfer() == Choice(request.param)
        yield WeightPublisher(engine, tmp_path, "bfloat16", engine.weight_transfer())
    finally:
        if engine is not None:
            engine.close()
        process.stop()


@needs_vllm
def test_a_server_holds_what_was_sent_and_samples_from_it(
    sampler: WeightPublisher, tiny_model: Callable[..., Any]
) -> None:
    prompt = np.arange(2, 30).astype(np.int32)
    params = SamplingParams(8, temperature=1.0, top_k=1)
    for version, seed in ((1, 9), (2, 4), (3, 9)):
        model = tiny_model("llama", seed=seed, head_dim=64).to("cuda")
        held = sampler.load_weights(LiveWeights(version, model.named_parameters))
        assert held.digest == weights_digest(model.named_parameters(), torch.bfloat16)
        (rollout,) = sampler.generate([Request("p", prompt, 1)], params)
        ids = torch.tensor(np.concatenate([prompt, rollout.completion_ids]), dtype=torch.int64, device="cuda")
        with torch.no_grad():
            predicted = torch.log_softmax(model(ids[None]).logits[0].float(), -1)
        expected = predicted[len(prompt) - 1 : -1].gather(1, ids[len(prompt) :, None])[:, 0].cpu().numpy()
        assert rollout.policy_version == version
        assert np.abs(expected - rollout.rollout_logprobs).max() < 0.3
