"""Several processes with one set of weights do what one does, and end when anything goes wrong."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.cluster.helper import EngineSettings
from deepscaler.cluster.life_signs import WaitLimits
from deepscaler.cluster.process import ProcessRemote
from deepscaler.cluster.processes import sharded_sampler, start_helpers
from deepscaler.cluster.replica import GradientHelper, SharedReplica
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.model import SftSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.toy.muon import orthogonalise_all
from deepscaler.toy.muon_helpers import MuonHelper, shared_orthogonalise
from deepscaler.toy.supervised import optimizers, train
from deepscaler.training.cross_entropy import supervised_sample
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import Request, Rollout, RunError, SamplingParams, TrainSample
from tiny_run import write_recipe

STOP = frozenset({1})
SECTION = SftSection(steps=3, tokens_per_step=60, warmup_steps=1)
PARAMS = SamplingParams(max_completion_tokens=20, seed=5, step=2)


def make_computer(model: Any, reference: Any = None) -> GradientComputer:
    algorithm = AlgorithmSection(entropy_coefficient=0.01)
    return GradientComputer(model, reference, algorithm, TrainingSection(tokens_per_micro_batch=64), temperature=1.0)


@dataclass(frozen=True)
class Processes:
    """This process and its helpers, which have the same model."""

    model: Any
    helpers: list[GradientHelper]
    sampler: SamplerGroup
    replica: SharedReplica


@contextmanager
def processes(
    model: Any, num_helpers: int, reference: Any = None, limits: WaitLimits | None = None
) -> Iterator[Processes]:
    computer, settings = make_computer(model, reference), EngineSettings(STOP, 8)
    with start_helpers(computer, settings, num_helpers, build=MuonHelper, limits=limits) as helpers:
        replica = SharedReplica(computer, optimizers(SECTION, shared_orthogonalise(helpers)), helpers)
        yield Processes(model, helpers, sharded_sampler(computer, settings, helpers), replica)


@pytest.fixture
def three(tiny_model: Callable[..., Any]) -> Iterator[Processes]:
    with processes(tiny_model(), 2, reference=tiny_model(seed=1)) as made:
        yield made


def requests() -> list[Request]:
    rng = np.random.default_rng(1)
    return [Request(f"p{i}", rng.integers(2, 40, 4 + i).astype(np.int32), 5) for i in range(4)]


def by_key(rollouts: Iterator[Rollout]) -> dict[tuple[str, int], Rollout]:
    return {(r.problem_id, r.sample_index): r for r in rollouts}


def test_sampling_does_not_depend_on_the_number_of_processes(three: Processes, tiny_model: Callable[..., Any]) -> None:
    alone = by_key(TorchEngine(tiny_model(), stop_ids=STOP, max_active=8).generate(requests(), PARAMS))
    shared = by_key(three.sampler.generate(requests(), PARAMS))
    assert shared.keys() == alone.keys()
    for key, rollout in shared.items():
        np.testing.assert_array_equal(rollout.completion_ids, alone[key].completion_ids)
        np.testing.assert_allclose(rollout.rollout_logprobs, alone[key].rollout_logprobs, atol=1e-5)


def test_gradients_and_logprobs_add_up_to_those_of_one_process(
    three: Processes, tiny_model: Callable[..., Any], make_samples_of: Callable[..., list[TrainSample]]
) -> None:
    samples = make_samples_of([9, 4, 12, 7, 3, 10, 5])
    alone = make_computer(tiny_model(), tiny_model(seed=1))
    old, ref = alone.logprobs(samples), alone.logprobs(samples, of="reference")
    for mine, theirs in (
        (three.replica.logprobs(samples), old),
        (three.replica.logprobs(samples, of="reference"), ref),
    ):
        for a, b in zip(mine, theirs, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5)
    expected = alone.accumulate(samples, old, ref)
    got = three.replica.accumulate(samples, old, ref)
    assert got.loss == pytest.approx(expected.loss, rel=1e-4, abs=1e-6)
    assert (got.num_tokens, got.num_packed_tokens) == (expected.num_tokens, expected.num_packed_tokens)
    for a, b in zip(three.model.parameters(), alone.model.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4)


def test_processes_orthogonalise_to_the_bits_of_one(three: Processes) -> None:
    torch.manual_seed(0)
    parameters = [p for p in three.model.parameters() if p.dim() == 2]
    matrices = [torch.randn(p.shape) for p in parameters] + [torch.randn(3, 7)]
    orthogonalise = shared_orthogonalise(three.helpers)
    for mine, alone in zip(orthogonalise(matrices), orthogonalise_all(matrices), strict=True):
        assert torch.equal(mine, alone)
    assert [m.shape for m in orthogonalise(matrices[:1])] == [matrices[0].shape]
    assert list(orthogonalise([])) == []


def test_work_beside_the_gradients_changes_shares_but_not_sums(
    three: Processes, make_samples_of: Callable[..., list[TrainSample]]
) -> None:
    samples = make_samples_of([9, 4, 12, 7, 3, 10, 5])
    model = three.model
    expected = three.replica.accumulate(samples, None, None)
    alone = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    for tokens in (0, 10, 1000):
        got, made = three.replica.accumulate_while(samples, None, None, lambda: "made", tokens)
        assert made == "made"
        assert got.num_packed_tokens == expected.num_packed_tokens
        assert got.loss == pytest.approx(expected.loss, rel=1e-4, abs=1e-6)
        for parameter, grad in zip(model.parameters(), alone, strict=True):
            torch.testing.assert_close(parameter.grad, grad, atol=1e-5, rtol=1e-4)
        model.zero_grad(set_to_none=True)


def test_supervised_training_by_processes_ends_where_one_process_does(tiny_model: Callable[..., Any]) -> None:
    trained, records = [], []
    for num_helpers in (0, 1):
        model, rng = tiny_model(), np.random.default_rng(1)
        samples = (supervised_sample(*rng.integers(2, 40, (2, 6)).astype(np.int32)) for _ in itertools.count())
        with processes(model, num_helpers) as made:
            records.append(train(model, made.replica, samples, SECTION))
        trained.append(model)
    assert records[0]["tokens"] == records[1]["tokens"]
    for a, b in zip(*(m.parameters() for m in trained), strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


def test_workers_see_an_update_at_once_and_confirm_it(three: Processes) -> None:
    model = three.model
    before = by_key(three.sampler.generate(requests(), PARAMS))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
    held = three.sampler.load_weights(LiveWeights(7, model.named_parameters))
    assert (held.version, held.digest) == (7, weights_digest(model.named_parameters()))
    after = by_key(three.sampler.generate(requests(), PARAMS))
    assert {r.policy_version for r in after.values()} == {7}
    changed = [k for k in after if not np.array_equal(after[k].completion_ids, before[k].completion_ids)]
    assert len(changed) > len(after) // 2


def test_an_abandoned_generation_does_not_disturb_the_next(three: Processes) -> None:
    expected = by_key(three.sampler.generate(requests(), PARAMS))
    started = three.sampler.generate(requests(), PARAMS)
    next(started)
    assert isinstance(started, Generator)
    started.close()
    assert by_key(three.sampler.generate(requests(), PARAMS)).keys() == expected.keys()


def test_a_helper_that_sees_other_weights_stops_the_run(three: Processes, tiny_model: Callable[..., Any]) -> None:
    other = LiveWeights(7, tiny_model(seed=3).named_parameters)
    remotes = [helper.remote for helper in three.helpers]
    sampler = SamplerGroup(
        TorchEngine(tiny_model(), stop_ids=STOP), remotes, load_call=lambda w: ("read_weights", w.version)
    )
    with pytest.raises(RunError, match="worker process 1 reports weights of version 7"):
        sampler.load_weights(other)


def test_a_stopped_or_killed_worker_is_replaced_and_no_bit_changes(
    tiny_model: Callable[..., Any], make_samples_of: Callable[..., list[TrainSample]]
) -> None:
    samples = make_samples_of([9, 4, 12, 7, 3, 10, 5])
    with processes(tiny_model(), 1, limits=WaitLimits(silence_s=3.0)) as two:
        two.sampler.load_weights(LiveWeights(7, two.model.named_parameters))
        expected = by_key(two.sampler.generate(requests(), PARAMS))
        two.replica.accumulate(samples, None, None)
        gradients = [p.grad for p in two.model.parameters()]
        two.model.zero_grad(set_to_none=True)

        pid = pid_of(two.helpers[0])
        os.kill(pid, signal.SIGSTOP)
        rollouts = by_key(two.sampler.generate(requests(), PARAMS))
        assert pid_of(two.helpers[0]) != pid
        assert rollouts.keys() == expected.keys()
        for key, rollout in rollouts.items():
            np.testing.assert_array_equal(rollout.completion_ids, expected[key].completion_ids)
            np.testing.assert_array_equal(rollout.rollout_logprobs, expected[key].rollout_logprobs)
            assert rollout.policy_version == 7

        os.kill(pid_of(two.helpers[0]), signal.SIGKILL)
        two.replica.accumulate(samples, None, None)
        for parameter, gradient in zip(two.model.parameters(), gradients, strict=True):
            assert torch.equal(parameter.grad, gradient)


def pid_of(helper: GradientHelper) -> int:
    assert isinstance(helper.remote.remote, ProcessRemote)
    return helper.remote.remote.pid


def test_an_exception_in_a_worker_reaches_the_user(three: Processes) -> None:
    reply = three.helpers[1].remote.call("nonsense")
    with pytest.raises(
        RunError, match=r"worker process 2: nonsense failed: AttributeError: .* no attribute 'nonsense'"
    ):
        reply.result()
    assert len(list(three.sampler.generate(requests(), PARAMS))) == 20, "and the process answers on"


def test_answers_may_be_taken_in_any_order(three: Processes, make_samples_of: Callable[..., list[TrainSample]]) -> None:
    remote, samples = three.helpers[0].remote, make_samples_of([4, 6])
    first, second = (remote.call("logprobs", [sample], "policy") for sample in samples)
    assert [len(second.result()[0]), len(first.result()[0])] == [6, 4]


def children_of(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(stat.parent.name))
    return found


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_no_process_survives_a_killed_run(tmp_path: Path) -> None:
    recipe, run_dir = write_recipe(tmp_path, num_steps=100_000), tmp_path / "run"
    command = [sys.executable, "-m", "deepscaler.cli.main", "train", str(recipe), "--run-dir", str(run_dir)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while not (run_dir / "checkpoints" / "step-000001").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    descendants = children_of(process.pid)
    assert len(descendants) >= 2  # a worker that shares the weights, and a grading process
    os.kill(process.pid, signal.SIGKILL)
    process.wait(30)
    deadline = time.monotonic() + 30
    while any(map(is_running, descendants)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in descendants if is_running(pid)]
    names = [path.name for path in Path("/dev/shm").iterdir()]
    assert not [n for n in names for pid in (process.pid, *descendants) if str(pid) in re.findall("[0-9]+", n)]
