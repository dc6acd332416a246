"""Loads published weights into the sampler and verifies them."""

from __future__ import annotations

from deepscaler.protocols import PublishedWeights, Sampler
from deepscaler.types import RunError, WeightsInfo


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
