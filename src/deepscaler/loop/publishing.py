"""Loads published weights into the sampler and verifies them: by digest, and by what both sides compute with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from deepscaler.protocols import GroupSampler, PublishedWeights, Sampler
from deepscaler.types import FloatArray, IntArray, Request, Rollout, RunError, SamplingParams, TrainSample, WeightsInfo

CANARY_TOKENS = 8
# Mean difference in nats per token beyond which learner and engine do not compute the same policy. Rounding leaves
# below 1e-4 in float32, and a few hundredths in bfloat16; weights of another version differ by tenths.
CANARY_LIMIT = {"float32": 0.02, "bfloat16": 0.3}


@dataclass(frozen=True, slots=True)
class Canary:
    """One fixed prompt that every engine continues after every publish, and the learner computes as well.

    Equal digests prove that the engine has the weights, not that it computes with them: a stale cache, another
    temperature or another rotation shows here.

    prompt_ids: int32 [num_prompt_tokens]. temperature: of training. logprobs: of the learner. limit: nats per token.
    """

    prompt_ids: IntArray
    temperature: float
    logprobs: Callable[[Sequence[TrainSample]], list[FloatArray]]
    limit: float

    def differences(self, sampler: Sampler) -> dict[str, float]:
        """Name of each engine -> mean |its log-probability minus the learner's| over its most likely tokens (nats).

        Engines that cannot report log-probabilities before top-k are left out.
        """
        params = SamplingParams(CANARY_TOKENS, self.temperature, top_k=1)
        named = generate_on_each(sampler, Request("canary", self.prompt_ids, 1), params)
        known = [(name, rollout) for name, rollout in named if not np.isnan(rollout.rollout_logprobs).any()]
        different = {rollout.completion_ids.tobytes(): _sample(rollout) for _, rollout in known}  # mostly one
        computed = dict(zip(different, self.logprobs(list(different.values())), strict=True)) if different else {}
        return {
            name: float(np.abs(computed[rollout.completion_ids.tobytes()] - rollout.rollout_logprobs).mean())
            for name, rollout in known
        }

    def check(self, sampler: Sampler, version: int) -> dict[str, float]:
        """The metric of this publish, of the worst engine. Raises RunError when one is far from the learner."""
        differences = self.differences(sampler)
        for name, difference in differences.items():
            if not math.isfinite(difference) or difference > self.limit:
                raise RunError(
                    f"after publishing version {version} learner and {name} disagree about a fixed prompt by "
                    f"{difference:.3g} nats a token (limit {self.limit:g}), though the engine holds the same weights: "
                    "it computes another policy, by a stale cache, another temperature, or code that does not fit this "
                    "model. Use rollout.engine = 'torch', or another release of the engine"
                )
        return {"canary_logprob_difference": max(differences.values())} if differences else {}


def generate_on_each(sampler: Sampler, request: Request, params: SamplingParams) -> list[tuple[str, Rollout]]:
    """(name, completion) of every engine of the sampler; of the sampler itself where it is one engine."""
    if isinstance(sampler, GroupSampler):
        return sampler.generate_on_each(request, params)
    (rollout,) = sampler.generate([request], params)
    return [("the engine", rollout)]


def _sample(rollout: Rollout) -> TrainSample:
    ones = np.ones(len(rollout.completion_ids), np.float32)
    return TrainSample(
        rollout.prompt_ids, rollout.completion_ids, rollout.rollout_logprobs, 0.0, ones, rollout.policy_version
    )


def load_checked(sampler: Sampler, weights: PublishedWeights) -> WeightsInfo:
    """Load the weights into the sampler and return the weights that it reports.

    Raises RunError when it reports other weights, by version or by digest.
    """
    held = sampler.load_weights(weights)
    wanted = weights.digest(held.dtype)
    if (held.version, held.digest) != (weights.version, wanted):
        raise RunError(
            f"after publishing version {weights.version} the engine holds version {held.version} with weights "
            f"{held.digest[:12]}, the learner {wanted[:12]}; sampling would continue with stale weights, so "
            "the run stops"
        )
    return held
