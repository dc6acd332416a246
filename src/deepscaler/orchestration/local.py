"""The local run: learner, engine and grader in this process, one set of weights, no Ray."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

import torch

from deepscaler.data.templates import encode_problem
from deepscaler.evaluation.sources import EngineSource
from deepscaler.protocols import Learner, Sampler
from deepscaler.types import Group, IntArray, Problem, Request, Rollout, SamplingParams, WeightsInfo


class Engine(Sampler, Protocol):
    """A sampler in this process, which knows the number type it holds its weights in."""

    dtype: torch.dtype


class LocalFleet:
    """One embedded engine behind the Fleet protocol. encoded: prompts that were rendered before, by problem id."""

    def __init__(
        self, engine: Engine, tokenizer: Any, instruction: str, encoded: Mapping[str, IntArray] | None = None
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._instruction = instruction
        self._encoded: dict[str, IntArray] = dict(encoded or {})
        self.on_rollout: Callable[[Rollout], None] | None = None

    def sample(
        self,
        problems: Sequence[Problem],
        num_samples: int,
        params: SamplingParams,
        *,
        next_index: MutableMapping[str, int] | None = None,
    ) -> list[Group]:
        # One problem may stand several times in a step, at the seam of two epochs or in a refill.
        free = next_index if next_index is not None else {}
        requests = []
        for problem in problems:
            first = free.get(problem.id, 0)
            free[problem.id] = first + num_samples
            requests.append(Request(problem.id, self.prompt_ids(problem), num_samples, first))
        results: dict[tuple[str, int], Rollout] = {}
        for rollout in self._engine.generate(requests, params):
            results[rollout.problem_id, rollout.sample_index] = rollout
            if self.on_rollout is not None:
                self.on_rollout(rollout)
        return [
            Group(
                problem,
                tuple(results[r.problem_id, r.first_sample_index + i] for i in range(num_samples)),
            )
            for problem, r in zip(problems, requests, strict=True)
        ]

    def source(self, params: SamplingParams, decode: Callable[[Any], str]) -> EngineSource:
        """The same engine as an evaluation sees it."""
        return EngineSource(self._engine, params, encode=self.prompt_ids, decode=decode)

    def publish_weights(self, learner: Learner) -> WeightsInfo:
        """Raises RuntimeError when the engine does not hold the learner's weights afterwards."""
        published = learner.weights_info(self._engine.dtype)
        wanted = published.digest
        self._engine.load_weights(learner.named_weights(), published.version)
        held = self._engine.weights_info()
        if held.digest != wanted:
            raise RuntimeError(
                f"after publishing version {held.version} the engine holds weights {held.digest[:12]}, the learner "
                f"{wanted[:12]}; sampling would go on with stale weights, so the run stops here"
            )
        return held

    def prompt_ids(self, problem: Problem) -> IntArray:
        if problem.id not in self._encoded:
            self._encoded[problem.id] = encode_problem(self._tokenizer, problem, self._instruction)
        return self._encoded[problem.id]
