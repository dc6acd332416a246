"""A real vLLM server (CPU build): weights by files with digests, samples of the new ones, and its end.

vLLM lives in an environment of its own: `make test-vllm` makes it and runs this there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepscaler.engines.vllm_server.client import ServerClient, VllmServerError
from deepscaler.engines.vllm_server.engine import ServerSettings, VllmServerEngine
from deepscaler.engines.vllm_server.ipc_wire import IpcWire
from deepscaler.engines.vllm_server.opening import ServedModel, ServerStarter
from deepscaler.engines.vllm_server.weight_transfer import WeightTransferClient
from deepscaler.modeling.host_weights import host_copy
from deepscaler.modeling.positions import model_context
from deepscaler.modeling.published_files import read_weights, write_weights
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.observability.run_directory import read_metrics
from deepscaler.types import RunError
from fake_weight_transfer import share
from tiny_run import deepscaler, write_model, write_recipe
from vllm_engines import PARAMS, requests, start, worst_error
from vllm_servers import server_section, start_sampler

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(900)]  # vLLM's own warnings
START_LIMIT_S = 600.0  # on a machine with other work a server takes minutes to start
STOP = frozenset({1})


def test_a_server_samples_what_vllm_in_this_process_does(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    inside = {(r.problem_id, r.sample_index): r for r in start(model, tmp_path).generate(requests(), PARAMS)}
    sampler = start_sampler(model, stop_ids=STOP)
    for rollout in sampler.generate(requests(), PARAMS):
        expected = inside[rollout.problem_id, rollout.sample_index]
        assert rollout.completion_ids.tolist() == expected.completion_ids.tolist()
        assert abs(rollout.rollout_logprobs - expected.rollout_logprobs).max() < 1e-4
    sampler.close()


@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_after_publishing_the_samples_are_those_of_the_new_weights(tiny_model: Callable[..., Any], family: str) -> None:
    model, other = (tiny_model(family, seed=seed, head_dim=32) for seed in (0, 9))
    sampler = start_sampler(model, stop_ids=STOP)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight[0].fill_(-0.0)  # a packed matrix is read back without signs of zeros
    held = sampler.load_weights(LiveWeights(7, other.named_parameters))
    assert (held.version, held.digest) == (7, weights_digest(other.named_parameters()))
    rollouts = list(sampler.generate(requests(), PARAMS))
    assert worst_error(rollouts, other, PARAMS.temperature) < 5e-5 and {r.policy_version for r in rollouts} == {7}
    sampler.close()


def test_files_that_changed_after_their_digests_were_taken_are_refused(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model(head_dim=32)
    sampler = start_sampler(model, stop_ids=STOP)
    files = write_weights(tmp_path, 1, tiny_model(seed=9, head_dim=32).named_parameters(), "float32")
    path = files.directory / files.files[0]
    tensors = load_file(path)
    name = "model.layers.1.self_attn.k_proj.weight"
    tensors[name] = tensors[name].clone()
    tensors[name].view(torch.int32)[3, 5] ^= 1  # the last bit of one weight
    save_file(tensors, path)
    with pytest.raises(RunError, match=rf"other weights than version 1 in 1 of \d+ tensors \({name}\)"):
        sampler.load_weights(read_weights(files.directory))
    with pytest.raises(RunError, match="start a new server"):
        list(sampler.generate(requests(), PARAMS))
    sampler.close()
    again = start_sampler(model, stop_ids=STOP)  # a new client of the same server publishes sound weights
    assert worst_error(list(again.generate(requests(), PARAMS)), model, PARAMS.temperature) < 5e-5
    with pytest.raises(VllmServerError, match="weights are missing"):
        parameters = [pair for pair in model.named_parameters() if pair[0] != name]
        again.load_weights(write_weights(tmp_path, 2, parameters, "float32"))
    again.close()


@pytest.fixture
def two_workers(tiny_model: Callable[..., Any], tmp_path: Path) -> Iterator[tuple[VllmServerEngine, ServerClient]]:
    """A server whose matrices are split over two workers, started for vLLM's weight transfer, and another client."""
    model = tiny_model(head_dim=32)
    model.save_pretrained(tmp_path / "model")
    context = model_context(model.config)
    settings = ServerSettings(STOP, "float32", context, context, weight_transfer="auto", num_gpus=2)
    section = server_section(vllm_tensor_parallel=2, vllm_args=('--weight-transfer-config={"backend": "ipc"}',))
    served = ServedModel(tmp_path / "model", model.config, (), on_gpu=False)
    starter = ServerStarter(served, section, settings, tmp_path / "logs")
    process = starter.start(tmp_path / "model", 0)
    try:
        engine, client = starter.connect(process), ServerClient(process.url, process.key)
        yield engine, client
        engine.close()
        client.close()
    finally:
        process.stop()


def test_a_server_over_two_workers_holds_what_was_published_and_refuses_to_sample_after_a_failed_phase(
    two_workers: tuple[VllmServerEngine, ServerClient], tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    (engine, client), model = two_workers, tiny_model(seed=9, head_dim=32)
    held = engine.load_weights(write_weights(tmp_path, 1, model.named_parameters(), "float32"))
    assert held.digest == weights_digest(model.named_parameters())
    assert worst_error(list(engine.generate(requests(), PARAMS)), model, PARAMS.temperature) < 5e-5
    choice = engine.weight_transfer()
    assert choice.way == "files" and "CUDA IPC and NCCL are between GPUs" in choice.reason
    # The phases up to the one that needs a GPU: this server takes no handles.
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    settings = ServerSettings(STOP, "float32", 128, 128)
    sender = VllmServerEngine(client, settings, transfer=WeightTransferClient(client, IpcWire(share), shapes))
    with pytest.raises(VllmServerError, match=r"answered /update_weights .*Refusing to deserialize"):
        sender.load_weights(host_copy(LiveWeights(2, model.named_parameters), "float32"))
    with pytest.raises(RunError, match="is broken"):
        list(sender.generate(requests(), PARAMS))


def processes_of(session: int) -> list[int]:
    """Processes of the session that a server was started in."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def server_of(run_dir: Path) -> int:
    """The process that writes the log of the run's server."""
    log = (run_dir / "workers" / "vllm-server-0.log").resolve()
    for path in Path("/proc").glob("[0-9]*/fd/1"):
        with suppress(OSError):
            pid = int(path.parent.parent.name)
            if path.resolve() == log and os.getsid(pid) == pid:
                return pid
    raise AssertionError(f"nobody writes {log}")


def wait_until(condition: Callable[[], bool], limit_s: float = START_LIMIT_S) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def settings() -> tuple[str, ...]:
    """Large steps: with the weights of the step before, log-probabilities would be far off."""
    chosen = ('rollout.engine="vllm_server"', f'rollout.vllm_python="{sys.executable}"', "optimizer.learning_rate=0.01")
    return tuple(part for one in chosen for part in ("--set", one))


def test_a_run_trains_over_a_server(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", hidden_size=64, head_dim=32)
    recipe, run_dir = write_recipe(tmp_path, num_steps=3, processes=1, model=model), tmp_path / "run"
    done = deepscaler("train", recipe, "--run-dir", run_dir, *settings(), timeout_s=START_LIMIT_S)
    assert done.returncode == 0, done.stderr
    rows = [row for row in read_metrics(run_dir / "metrics.jsonl") if row["kind"] == "step"]
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert max(row["mismatch_max"] for row in rows) < 1e-3
    assert max(row["canary_logprob_difference"] for row in rows) < 1e-4
    assert all(row["publish_bytes"] > 100_000 for row in rows)
    assert not list((run_dir / "weights").iterdir())


def test_a_killed_run_leaves_no_process_of_its_server(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", hidden_size=64, head_dim=32)
    recipe, run_dir = write_recipe(tmp_path, num_steps=500, processes=1, model=model), tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "deepscaler.cli.main",
        "train",
        str(recipe),
        "--run-dir",
        str(run_dir),
        *settings(),
    ]
    run = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    try:
        wait_until(
            lambda: (run_dir / "metrics.jsonl").is_file() and "mismatch" in (run_dir / "metrics.jsonl").read_text()
        )
        server = server_of(run_dir)
        assert len(processes_of(server)) >= 3  # server, engine, worker
    finally:
        run.send_signal(signal.SIGKILL)
        run.wait(60)
    wait_until(lambda: not processes_of(server))
