"""The object in a helper process: an engine and a gradient computer over weights in shared memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.generic_engine import make_engine
from deepscaler.engines.torch.stops import Decode
from deepscaler.modeling.weights import LiveWeights
from deepscaler.protocols import PolicyOrReference
from deepscaler.training.gradients import GradientComputer, Logprobs
from deepscaler.types import Request, Rollout, SamplingParams, TokenSums, TrainSample, WeightsInfo


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the torch engine of every process is started. decode: where completions end at stop strings."""

    stop_ids: frozenset[int]
    max_active: int
    decode: Decode | None = None
    float32_head: bool = False

    def start(self, model: nn.Module, is_cancelled: Callable[[], bool] = lambda: False) -> TorchEngine:
        return make_engine(
            model,
            stop_ids=self.stop_ids,
            decode=self.decode,
            max_active=self.max_active,
            float32_head=self.float32_head,
            is_cancelled=is_cancelled,
        )


class Helper:
    """One process's shard of sampling and of gradients. Only the main process updates the weights.

    engine: None where another engine samples. lent: float32 memory shared with the main process, as large as the
    weights: this process's gradient.
    """

    def __init__(
        self,
        computer: GradientComputer,
        engine: EngineSettings | None,
        lent: Tensor,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        self._computer, self._lent = computer, lent
        self._engine = None if engine is None else engine.start(computer.model, is_cancelled)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        assert self._engine is not None
        return self._engine.generate(requests, params)

    def read_weights(self, version: int) -> WeightsInfo:
        """Sample as this version from now on; returns what this process sees of it."""
        assert self._engine is not None
        return self._engine.load_weights(LiveWeights(version, self._computer.model.named_parameters))

    def logprobs(self, samples: Sequence[TrainSample], of: PolicyOrReference) -> Logprobs:
        return self._computer.logprobs(samples, of=of)

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> TokenSums:
        """The gradient is left in `lent`."""
        parameters = trainable(self._computer.model)
        views = views_of(self._lent.zero_(), [p.shape for p in parameters])
        for parameter, view in zip(parameters, views, strict=True):
            parameter.grad = view  # the backward adds to it, so that no second copy exists
        sums = self._computer.accumulate(samples, old, ref)
        self._computer.model.zero_grad(set_to_none=True)  # the memory is lent for other things as well
        return sums


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Weights that get a gradient: all, or only adapters."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def views_of(flat: Tensor, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """Views of the given shapes, one after the other."""
    sizes = [math.prod(shape) for shape in shapes]
    parts = flat[: sum(sizes)].split(sizes)
    return [part.view(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]
