"""One whole GRPO step on a GPU: 16 prompts x 8 completions of 8K tokens, the 1.5B architecture with random weights.

    python benchmarks/gpu_step.py [--size 1.5b] [--device cuda] [--json FILE]

The program's own learner and engine, in bfloat16 with a KL reference and checkpointing, as the recipe has them:
sample, make samples, update, publish with both digests. No completion stops by itself, all reach the budget; rewards
are random. The cache gives its memory to the learner and takes it again, as in training. A part of gpu.py.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from gpu_device import Report, built, clock, main, peak_gib, recipe, requests, workload
from policy_learner import make_learner

from deepscaler.algorithms.batch import make_samples
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.loop.publishing import load_checked
from deepscaler.modeling.positions import cast_parameters
from deepscaler.types import Group, Outcome, Problem, Rollout, SamplingParams, ScoredGroup, Verdict

KL = 0.001
T = TypeVar("T")


def grouped(rollouts: Iterable[Rollout], group: int) -> list[Group]:
    by_problem: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_problem.setdefault(rollout.problem_id, []).append(rollout)
    assert all(len(members) == group for members in by_problem.values())
    return [Group(Problem(name, name, ("",)), tuple(members)) for name, members in by_problem.items()]


def scored(groups: Sequence[Group]) -> list[ScoredGroup]:
    """Random rewards, of both kinds in every group."""
    rng, result = np.random.default_rng(4), []
    for group in groups:
        rewards = rng.permutation(np.arange(len(group.rollouts)) % 2)
        verdicts = tuple(Verdict(Outcome.CORRECT if r else Outcome.WRONG, float(r)) for r in rewards)
        result.append(ScoredGroup(group, ("",) * len(rewards), verdicts))
    return result


class Phases:
    """Seconds and most memory of each phase; reported after every one."""

    def __init__(self, device: torch.device, report: Report, record: dict[str, Any]) -> None:
        self._device, self._report, self.record = device, report, record
        self.taken: dict[str, float] = {}

    def run(self, name: str, action: Callable[[], T]) -> T:
        start = clock(self._device)
        with peak_gib(self._device, self.record, f"{name}_peak_gib"):
            result = action()
        self.taken[name] = clock(self._device) - start
        self._report("step", {**self.record, "seconds": self.taken})
        return result


def step(size: str, device: torch.device, report: Report) -> None:
    work, settings = workload(size), recipe(size, kl=KL)
    num_prompts, group, length = work.step
    model = built(size, device, torch.float32)
    half = cast_parameters(copy.deepcopy(model), torch.bfloat16)
    learner, count = make_learner(model, settings), num_prompts * group
    params = SamplingParams(max_completion_tokens=length)
    wanted = requests(count, work.prompt, group=group)
    record: dict[str, Any] = {"prompts": num_prompts, "group": group, "tokens_each": length}
    phases = Phases(device, report, record)
    engine = TorchEngine(half, stop_ids=frozenset(), max_active=count)
    phases.run("first publish", lambda: load_checked(engine, learner.publish()))
    groups = phases.run("sample", lambda: grouped(engine.generate(wanted, params), group))
    record["sampled_tokens_per_s"] = count * length / phases.taken["sample"]
    batches = make_samples(scored(groups), settings.algorithm, max_completion_tokens=length, num_updates=1)
    engine.release_memory()
    stats = phases.run("update", lambda: learner.update(batches))
    record["trained_tokens_per_s"] = count * (work.prompt + length) / phases.taken["update"]
    record["metrics"] = stats.metrics
    record["step_s"] = phases.taken["sample"] + phases.taken["update"]
    phases.run("publish", lambda: load_checked(engine, learner.publish()))


if __name__ == "__main__":
    main(__doc__ or "", {"step": step})
