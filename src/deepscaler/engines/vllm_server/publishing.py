"""Gives published weights to vLLM servers: as files that they load, or from host memory by vLLM's weight transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deepscaler.engines.vllm_server.transfer_choice import Choice
from deepscaler.modeling.host_weights import host_copy
from deepscaler.modeling.published_files import FileWeights, remove_versions, write_weights
from deepscaler.protocols import GroupSampler, InterruptibleSampler, PublishedWeights
from deepscaler.types import Request, Rollout, SamplingParams, WeightsInfo


class WeightPublisher:
    """A sampler whose `load_weights` first makes a copy of the weights that stays as long as they are the newest.

    root: a directory that the servers see, for files. dtype: of their weights. choice: the way that weights take, and
    why, of which `report` is told once.
    """

    def __init__(
        self,
        servers: InterruptibleSampler,
        root: Path,
        dtype: str,
        choice: Choice = Choice("files"),
        report: Callable[[str], object] = lambda text: None,
    ) -> None:
        self._servers, self._root, self._dtype = servers, root, dtype
        self._choice, self._report = choice, report
        self._is_told = False

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        return self._servers.generate(requests, params)

    def generate_on_each(self, request: Request, params: SamplingParams) -> list[tuple[str, Rollout]]:
        if isinstance(self._servers, GroupSampler):
            return self._servers.generate_on_each(request, params)
        return [("the engine", rollout) for rollout in self._servers.generate([request], params)]

    def interrupt(self) -> None:
        self._servers.interrupt()

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """Raises RunError when a server then holds other weights. Of older versions nothing is kept."""
        self._tell()
        if isinstance(weights, FileWeights):
            return self._servers.load_weights(weights)
        if self._choice.way != "files":
            return self._servers.load_weights(host_copy(weights, self._dtype))
        files = write_weights(self._root, weights.version, weights.tensors(self._dtype), self._dtype)
        held = self._servers.load_weights(files)
        remove_versions(self._root, keep=1)
        return held

    def release_memory(self) -> None:
        self._servers.release_memory()

    def close(self) -> None:
        self._servers.close()

    def _tell(self) -> None:
        choice = self._choice
        if not self._is_told and (choice.reason or choice.way != "files"):
            because = f": {choice.reason}" if choice.reason else ""
            self._report(f"weights go into the vLLM servers by {_NAME[choice.way]}{because}")
        self._is_told = True


_NAME = {
    "files": "files",
    "ipc": "vLLM's weight transfer over CUDA IPC",
    "nccl": "vLLM's weight transfer over NCCL",
}


def common_choice(choices: Sequence[Choice]) -> Choice:
    """Of several servers: files for all where one takes nothing else."""
    files = [choice for choice in choices if choice.way == "files"]
    return files[0] if files else choices[0]
