"""The torch engine of a model without a family: the model's own forward and cache (`generic_scheduler`)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from deepscaler.engines.sizing import bytes_per_token
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.generic_scheduler import GenericScheduler
from deepscaler.modeling.generic import is_generic


class GenericEngine(TorchEngine):
    """Draws, stops, cancellation and weights are those of `TorchEngine`; logits are the model's own, in its type."""

    def _build(self, float32_head: bool, attention_backend: str | None) -> None:
        assert attention_backend is None, "a model without a family computes its own attention"
        self._max_tokens = 0

    def open_scheduler(self, capacity: int) -> GenericScheduler:
        if self._scheduler is not None:
            self._scheduler.close()
        self._capacity = capacity
        self._max_tokens = self._free_bytes() // bytes_per_token(self._model.config, self.dtype)
        opened = GenericScheduler(self._model, self._stops, self._max_active, self._max_tokens)
        self._scheduler = opened
        return opened

    def _refresh(self) -> None:
        """Nothing: the model's own weights are read in every step."""

    def _max_sequence_tokens(self, prompt_tokens: int) -> int:
        return self._max_tokens

    def release_memory(self) -> None:
        """The cache of running sequences is freed with them."""
        if self._device.type == "cuda":
            if self._scheduler is not None:
                self._scheduler.close()
            torch.cuda.empty_cache()

    def reset(self) -> None:
        self.close()


def make_engine(model: nn.Module, **settings: Any) -> TorchEngine:
    """The torch engine for this model, with the settings of `TorchEngine`."""
    return (GenericEngine if is_generic(model) else TorchEngine)(model, **settings)
