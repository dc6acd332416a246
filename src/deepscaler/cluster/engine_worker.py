"""The object in a sampler's process: an engine with its own copy of the weights, read from published files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from deepscaler.cluster.connection import IsCancelled
from deepscaler.cluster.local import PolicyFiles, engine_settings, open_engine
from deepscaler.cluster.processes import divided
from deepscaler.config import Recipe
from deepscaler.engines.sizing import DTYPES
from deepscaler.protocols import PublishedWeights, Sampler
from deepscaler.types import Request, Rollout, SamplingParams, WeightsInfo


class EngineWorker:
    """Samples from the newest weights that it loaded; they are read back from the engine, and compared by the caller.

    num_engines: that share `rollout.max_active`. directory: of this worker, for an engine that writes files.
    """

    def __init__(
        self, recipe: Recipe, policy: PolicyFiles, num_engines: int, directory: Path, is_cancelled: IsCancelled
    ) -> None:
        self._opened = ExitStack()
        if recipe.rollout.engine == "torch":
            settings = divided(engine_settings(recipe, policy), num_engines)
            self._sampler: Sampler = settings.start(policy.load(DTYPES[recipe.model.dtype]), is_cancelled)
        else:
            self._sampler = self._opened.enter_context(open_engine(recipe, policy, directory))

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        return self._sampler.generate(requests, params)

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        return self._sampler.load_weights(weights)

    def release_memory(self) -> None:
        self._sampler.release_memory()
