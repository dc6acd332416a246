"""A run whose learner, sampler and grader are fakes: the loop itself, without torch, in milliseconds.

The fake policy answers right with a probability that grows with its version.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.config.sections.training import CheckpointSection
from deepscaler.curriculum.controller import Curriculum
from deepscaler.data.mixture import Part, StagePlan
from deepscaler.data.stream import ProblemStream
from deepscaler.loop.ahead import Ahead
from deepscaler.loop.experience import Experience, OnPolicy, Step
from deepscaler.loop.inputs import Inputs
from deepscaler.loop.progress import Progress
from deepscaler.loop.run import Run
from deepscaler.loop.stop import StopRequest
from deepscaler.observability.alarms import Alarms
from deepscaler.observability.run_directory import RunDirectory
from deepscaler.protocols import Cluster, Grader, PublishedWeights, Sampler
from deepscaler.randomness import generator
from deepscaler.rewards.scoring import items_of
from deepscaler.training.background_write import BackgroundWrite
from deepscaler.training.checkpoint_writer import CheckpointWriter
from deepscaler.types import (
    FinishReason,
    FloatArray,
    GradeItem,
    IntArray,
    Outcome,
    Problem,
    Request,
    Rollout,
    SamplingParams,
    ScoredGroup,
    TrainSample,
    UpdateStats,
    Verdict,
    WeightsInfo,
)

RIGHT, WRONG, STOP = 7, 8, 1


@dataclass(frozen=True)
class FakeWeights:
    version: int

    def digest(self, dtype: str) -> str:
        return hashlib.sha256(f"{self.version} {dtype}".encode()).hexdigest()

    def tensors(self, dtype: str) -> Iterator[tuple[str, Any]]:
        return iter(())


@dataclass
class FakeLearner:
    version: int = 0
    num_updates: int = 0
    updates: list[list[list[TrainSample]]] = field(default_factory=list)
    stages_begun: list[tuple[bool, bool]] = field(default_factory=list)

    def update(self, mini_batches: Sequence[Sequence[TrainSample]]) -> UpdateStats:
        self.updates.append([list(batch) for batch in mini_batches])
        self.version += 1
        self.num_updates += len(mini_batches)
        return UpdateStats(num_updates=len(mini_batches), grad_norm=1.0, learning_rate=1e-6, entropy_mean=1.0)

    def logprobs(self, samples: Sequence[TrainSample]) -> list[FloatArray]:
        return [np.full(len(sample.completion_ids), -1.0, np.float32) for sample in samples]

    def publish(self) -> FakeWeights:
        return FakeWeights(self.version)

    def begin_stage(self, *, reset_optimizer: bool, reset_reference: bool) -> None:
        self.stages_begun.append((reset_optimizer, reset_reference))

    def save(self, directory: Path) -> None:
        (directory / "learner.json").write_text(json.dumps({"version": self.version, "num_updates": self.num_updates}))

    def begin_save(self, directory: Path) -> BackgroundWrite:
        return BackgroundWrite(lambda: self.save(directory), directory.name)

    def load(self, directory: Path, *, optimizer: bool = True) -> None:
        saved = json.loads((directory / "learner.json").read_text())
        self.version, self.num_updates = saved["version"], saved["num_updates"]


@dataclass
class FakeSampler:
    """takes_over: whether weights that are published arrive."""

    takes_over: bool = True
    version: int = 0
    calls: list[str] = field(default_factory=list)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        self.calls.append("generate")
        for request in requests:
            for index in range(request.first_sample_index, request.first_sample_index + request.num_samples):
                draw = generator("fake", params.seed, params.step, request.problem_id, index)
                right = draw.random() < 0.3 + 0.1 * self.version
                noise = draw.integers(10, 40, size=params.max_completion_tokens // 2).tolist()
                ids = np.array([RIGHT if right else WRONG, *noise, STOP], np.int32)
                logprobs = np.full(len(ids), -1.0, np.float32)
                prompt = request.prompt_ids
                yield Rollout(
                    request.problem_id, index, prompt, ids, logprobs, FinishReason.STOP, policy_version=self.version
                )

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        self.calls.append("load_weights")
        if self.takes_over:
            self.version = weights.version
        return WeightsInfo(self.version, FakeWeights(self.version).digest("float32"))

    def release_memory(self) -> None:
        self.calls.append("release_memory")

    def close(self) -> None:
        self.calls.append("close")


class FakeGrader:
    def grade(self, items: Sequence[GradeItem]) -> list[Verdict]:
        right, wrong = Verdict(Outcome.CORRECT, 1.0), Verdict(Outcome.WRONG, 0.0)
        return [right if item.completion.startswith(str(RIGHT)) else wrong for item in items]


def samples_of(groups: Sequence[ScoredGroup], step: Step) -> list[list[TrainSample]]:
    """Reward minus the group's mean."""
    return [
        [
            TrainSample(r.prompt_ids, r.completion_ids, r.rollout_logprobs, float(reward - g.rewards.mean()), ones, 0)
            for g in groups
            for r, reward in zip(g.group.rollouts, g.rewards, strict=True)
            for ones in [np.ones(r.num_tokens, np.float32)]
        ]
    ]


def recipe(num_steps: int = 4, max_policy_lag: int = 0, **sections: Any) -> Recipe:
    return Recipe(
        name="fakes",
        num_steps=num_steps,
        model=ModelSection(path="unused"),
        data=DataSection(source="unused.json"),
        rollout=RolloutSection(prompts_per_step=3, group_size=4, max_policy_lag=max_policy_lag),
        stages=(
            StageSection(name="short", max_completion_tokens=8, steps=2),
            StageSection(name="long", max_completion_tokens=16, reset_optimizer=True),
        ),
        checkpoint=CheckpointSection(every_steps=2),
        **sections,
    )


def fake_run(
    path: Path,
    recipe: Recipe,
    sampler: Sampler | None = None,
    learner: FakeLearner | None = None,
    grader: Grader | None = None,
) -> Run:
    """Where the recipe samples ahead, the caller closes the run's `Ahead`."""
    learner, sampler = learner or FakeLearner(), sampler or FakeSampler()
    cluster = Cluster(learner, sampler, grader or FakeGrader())
    problems = [Problem(f"p{i}", f"question {i}", ("7",)) for i in range(10)]
    everything = StagePlan("", (Part("", 1.0, tuple(range(len(problems)))),))
    stream = ProblemStream(problems, recipe.seed, [everything] * len(recipe.stages))

    def encode(problem: Problem) -> IntArray:
        return np.array([2, 3, int(problem.id[1:]) + 4], np.int32)

    def decode(ids: IntArray) -> str:
        return " ".join(map(str, ids))

    to_items = partial(items_of, decode=decode, thinking_prefilled=False)
    arguments = (recipe.rollout, recipe.algorithm, recipe.seed, stream, sampler, cluster.grader, encode, to_items)
    experience: Experience = OnPolicy(*arguments)
    if recipe.rollout.max_policy_lag:
        experience = Ahead(*arguments, num_steps=recipe.num_steps, limit_s=2 * recipe.cluster.stall_s)
        cluster = replace(cluster, sampler=experience.sampler)
    run = Run(
        recipe=recipe,
        recipe_digest="d",
        cluster=cluster,
        experience=experience,
        make_samples=samples_of,
        weights=learner.publish(),
        stream=stream,
        curriculum=Curriculum(recipe.stages, recipe.curriculum),
        alarms=Alarms(recipe.alarms, max_policy_lag=recipe.rollout.max_policy_lag),
        directory=RunDirectory(path),
        saves=CheckpointWriter(path / "checkpoints", in_background=recipe.checkpoint.async_save),
        progress=Progress(StringIO(), terminal=False),
        stop=StopRequest(),
        validation=None,
        save_tokenizer=lambda directory: None,
        decode_prompt=decode,
        inputs=Inputs("w", "c", "t", "p", (STOP,)),
        base_model=path,
    )
    run.publish()
    return run
