"""A copy of published weights in host memory, from which they are sent to samplers.

The learner's own weights change with its next update; a sampler that is started again in the middle of a step needs
those that were published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from deepscaler.modeling.weights import combined_digest, tensor_digests
from deepscaler.protocols import PublishedWeights


@dataclass(frozen=True, slots=True)
class HostWeights:
    """A handle on one published version, in this process.

    weights: every weight under its transformers name, tied ones once; contiguous, on the CPU, in `dtype`.
    digests: tensor name -> SHA-256 (hex).
    """

    version: int
    dtype: str
    weights: Mapping[str, Tensor]
    digests: Mapping[str, str]

    @property
    def num_bytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights.values())

    def digest(self, dtype: str) -> str:
        """SHA-256 (hex) of all weights. Raises ValueError for another dtype."""
        return combined_digest(self.tensor_digests(dtype))

    def tensor_digests(self, dtype: str) -> Mapping[str, str]:
        if dtype != self.dtype:
            raise ValueError(
                f"version {self.version} was published in {self.dtype}; an engine that holds {dtype} cannot be "
                "verified against it. Let rollout engine and model.dtype agree"
            )
        return self.digests

    def tensors(self, dtype: str) -> Iterator[tuple[str, Tensor]]:
        self.tensor_digests(dtype)
        return iter(self.weights.items())


def host_copy(weights: PublishedWeights, dtype: str) -> HostWeights:
    """Cast to `dtype` and copy to host memory, one tensor at a time; digests are those of the copies."""
    copies: dict[str, Tensor] = {}
    from_gpu = False
    for name, weight in weights.tensors(dtype):
        from_gpu = from_gpu or weight.is_cuda
        copies[name] = weight.detach().to("cpu", copy=True).contiguous()
    return HostWeights(weights.version, dtype, copies, tensor_digests(copies.items(), in_threads=from_gpu))
