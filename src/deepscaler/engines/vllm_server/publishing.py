"""Writes published weights into files that vLLM servers load."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from deepscaler.modeling.published_files import FileWeights, remove_versions, write_weights
from deepscaler.protocols import InterruptibleSampler, PublishedWeights
from deepscaler.types import Request, Rollout, SamplingParams, WeightsInfo


class FilePublisher:
    """A sampler whose `load_weights` first writes the weights into `root`, once for all servers of `servers`.

    root: a directory that the servers see. dtype: of their weights.
    """

    def __init__(self, servers: InterruptibleSampler, root: Path, dtype: str) -> None:
        self._servers, self._root, self._dtype = servers, root, dtype

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        return self._servers.generate(requests, params)

    def interrupt(self) -> None:
        self._servers.interrupt()

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """Raises RunError when a server then holds other weights. Of older versions nothing is kept."""
        if isinstance(weights, FileWeights):
            return self._servers.load_weights(weights)
        files = write_weights(self._root, weights.version, weights.tensors(self._dtype), self._dtype)
        held = self._servers.load_weights(files)
        remove_versions(self._root, keep=1)
        return held

    def release_memory(self) -> None:
        self._servers.release_memory()

    def close(self) -> None:
        self._servers.close()
