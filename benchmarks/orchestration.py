"""What moving a step's rollouts and samples through Ray costs, with real objects and no model; prints JSON.

    python benchmarks/orchestration.py --json FILE [--write] [--steps 12] [--memory-steps 200] [--samplers 2]

As a run with cluster.kind = "ray": samplers in actors stream rollouts (ids and log-probabilities) to the controller
through a SamplerGroup, it makes samples of them, and learner ranks in actors take their shares. Completions have the
lengths of scaling.py, up to 24,576 tokens, and cost nothing to make; rewards are random. Nothing is waited for, so the
seconds of a step are what the orchestration adds to a run. Memory is that of the controller after every step.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from markers import replace_between_markers
from records import ROOT, machine, middle, with_range
from scaling_costs import Lengths

from deepscaler.algorithms.batch import make_samples
from deepscaler.cluster.ray_remote import ActorOptions, RayRemote
from deepscaler.cluster.ray_session import Local, ray_session
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.cluster.supervised import SupervisedRemote
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.evaluation.markdown import markdown
from deepscaler.types import (
    FinishReason,
    Group,
    Outcome,
    Problem,
    Request,
    Rollout,
    SamplingParams,
    ScoredGroup,
    TrainSample,
    Verdict,
)

PAGE = ROOT / "docs" / "scaling.md"
GROUP_SIZE = 16
GROUPS = 128  # of a step whose time is measured
MEMORY_GROUPS = 16  # of a step of the long run: the same objects, fewer of them
STEP_S = 600.0  # of a run, for comparison
STORE_BYTES = 512 * 2**20
LENGTHS = Lengths()
IsCancelled = Callable[[], bool]


class Engine:
    """Completions of the right lengths, at once."""

    def __init__(self, seed: int, is_cancelled: IsCancelled) -> None:
        self._rng = np.random.default_rng(seed)
        self._ids = self._rng.integers(0, 150_000, LENGTHS.cap, dtype=np.int32)
        self._logprobs = -self._rng.random(LENGTHS.cap, dtype=np.float32)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        for request in requests:
            lengths = LENGTHS.draw(self._rng, 1, request.num_samples)[0].astype(int)
            for index, tokens in enumerate(lengths, start=request.first_sample_index):
                yield Rollout(
                    problem_id=request.problem_id,
                    sample_index=index,
                    prompt_ids=request.prompt_ids,
                    completion_ids=self._ids[:tokens].copy(),
                    rollout_logprobs=self._logprobs[:tokens].copy(),
                    finish_reason=FinishReason.LENGTH if tokens == LENGTHS.cap else FinishReason.STOP,
                    policy_version=params.step,
                )


class Rank:
    """A learner rank that only counts what it is given."""

    def __init__(self, is_cancelled: IsCancelled) -> None:
        pass

    def accumulate(self, samples: Sequence[TrainSample]) -> int:
        return sum(sample.num_tokens for sample in samples)


class Workers:
    """The actors of a run. Use as a context manager."""

    def __init__(self, samplers: int, ranks: int) -> None:
        self._counts, self._stack = (samplers, ranks), ExitStack()

    def __enter__(self) -> Workers:
        samplers, ranks = self._counts
        cores = Local(num_cpus=samplers + ranks, num_gpus=0, object_store_bytes=STORE_BYTES)
        self._stack.enter_context(ray_session("local", cores))
        engines = [
            SupervisedRemote(name, partial(RayRemote, partial(Engine, seed), ActorOptions(name)))
            for seed, name in enumerate(f"sampler {number}" for number in range(samplers))
        ]
        self.ranks = [RayRemote(Rank, ActorOptions(f"learner rank {number}")) for number in range(ranks)]
        for worker in (*engines, *self.ranks):
            self._stack.callback(worker.close)
        self.sampler = SamplerGroup(None, engines)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def step(self, number: int, requests: Sequence[Request]) -> dict[str, float]:
        """Seconds of each part, tokens of the samples, and the controller's memory in MiB."""
        start = time.perf_counter()
        params = SamplingParams(LENGTHS.cap, step=number)
        groups = grouped(self.sampler.generate(requests, params))
        collected = time.perf_counter()
        algorithm = AlgorithmSection()
        samples = make_samples(scored(groups), algorithm, max_completion_tokens=LENGTHS.cap, num_updates=1)[0]
        made = time.perf_counter()
        shares = [samples[rank :: len(self.ranks)] for rank in range(len(self.ranks))]
        answers = [rank.call("accumulate", share) for rank, share in zip(self.ranks, shares, strict=True)]
        tokens = sum(answer.result() for answer in answers)
        end = time.perf_counter()
        seconds = {"collect_s": collected - start, "samples_s": made - collected, "hand_out_s": end - made}
        return {**seconds, "step_s": end - start, "tokens": tokens, "memory_mib": memory_mib()}


def grouped(rollouts: Iterator[Rollout]) -> list[Group]:
    by_problem: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        by_problem.setdefault(rollout.problem_id, []).append(rollout)
    return [Group(Problem(name, name, ("",)), tuple(members)) for name, members in by_problem.items()]


def scored(groups: Sequence[Group]) -> list[ScoredGroup]:
    """Rewards of both kinds in every group, so that every sample is trained on."""
    verdicts = tuple(Verdict(Outcome.CORRECT if i % 2 else Outcome.WRONG, float(i % 2)) for i in range(GROUP_SIZE))
    return [ScoredGroup(group, ("",) * GROUP_SIZE, verdicts) for group in groups]


def memory_mib() -> float:
    """Resident memory of this process that is its own: not of Ray's object store, which it maps."""
    pages = [int(text) for text in Path("/proc/self/statm").read_text().split()]
    return (pages[1] - pages[2]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def run_steps(workers: Workers, steps: int, groups: int) -> list[dict[str, float]]:
    prompt = np.arange(LENGTHS.prompt, dtype=np.int32)
    requests = [Request(f"p{number}", prompt, GROUP_SIZE) for number in range(groups)]
    return [workers.step(number, requests) for number in range(steps)]


def measure(steps: int, memory_steps: int, samplers: int, ranks: int) -> dict[str, Any]:
    with Workers(samplers, ranks) as workers:
        timed = run_steps(workers, steps, GROUPS)[1:]  # the first one starts the processes
        long = [step["memory_mib"] for step in run_steps(workers, memory_steps, MEMORY_GROUPS)]
    tenth = max(1, memory_steps // 10)
    return {
        "machine": machine(),
        "ray": importlib.metadata.version("ray"),
        "samplers": samplers,
        "ranks": ranks,
        "steps": steps - 1,
        "rollouts": GROUPS * GROUP_SIZE,
        "tokens": statistics.fmean(step["tokens"] for step in timed),
        **{key: middle([step[key] for step in timed]) for key in timed[0] if key.endswith("_s")},
        "memory_steps": memory_steps,
        "memory_rollouts": MEMORY_GROUPS * GROUP_SIZE,
        "memory_mib_second_tenth": statistics.fmean(long[tenth : 2 * tenth]),
        "memory_mib_last_tenth": statistics.fmean(long[-tenth:]),
        "memory_mib": [round(each) for each in long],
    }


PARTS = {
    "collect rollouts from the samplers": "collect_s",
    "make samples (advantages, weights)": "samples_s",
    "hand them to the learner ranks": "hand_out_s",
    "all": "step_s",
}


def text(record: dict[str, Any]) -> str:
    """The text between the markers of docs/scaling.md."""
    rows = [
        (name, with_range(record[key]), f"{100 * record[key]['median'] / STEP_S:.2f}%") for name, key in PARTS.items()
    ]
    where = record["machine"]
    note = (
        f"{record['rollouts']:,} rollouts, {record['tokens'] / 1e6:.1f} M tokens a step, {record['samplers']} samplers "
        f"and {record['ranks']} learner ranks; median (range) of {record['steps']} steps. Controller's memory over "
        f"{record['memory_steps']} steps of {record['memory_rollouts']} rollouts: "
        f"{record['memory_mib_second_tenth']:.0f} MiB on average in the second tenth of the steps, "
        f"{record['memory_mib_last_tenth']:.0f} MiB in the last. All processes on one machine: {where['processor']}, "
        f"{where['cores']} cores, {where['date']}, Ray {record['ray']}."
    )
    return f"{markdown(('part', 'seconds a step', 'of a step of 10 minutes'), rows)}\n\n{note}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--write", action="store_true", help="put the table into docs/scaling.md")
    parser.add_argument("--steps", type=int, default=12, help="of 2,048 rollouts, for the time")
    parser.add_argument("--memory-steps", type=int, default=200, help="of 256 rollouts, for the memory")
    parser.add_argument("--samplers", type=int, default=2)
    parser.add_argument("--ranks", type=int, default=2)
    arguments = parser.parse_args()
    record = measure(arguments.steps, arguments.memory_steps, arguments.samplers, arguments.ranks)
    arguments.json.write_text(json.dumps(record, indent=1) + "\n")
    print(text(record))
    if arguments.write:
        replace_between_markers(PAGE, "orchestration.py", text(record))


if __name__ == "__main__":
    main()
