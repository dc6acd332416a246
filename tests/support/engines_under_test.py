"""The engines that the conformance suite runs on: the embedded one, and vLLM where it is installed."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.vllm.engine import VllmEngine, vllm_version
from deepscaler.protocols import Sampler
from tiny_models import make_model


class EngineUnderTest(Protocol):
    def model(self, family: str = "qwen2", *, seed: int = 0) -> Any:
        """A tiny model of a width that the engine can run."""
        ...

    def start(self, model: Any, **settings: Any) -> Sampler: ...


class Embedded:
    def __init__(self, _: pytest.TempPathFactory) -> None:
        pass

    def model(self, family: str = "qwen2", *, seed: int = 0) -> Any:
        return make_model(family, seed=seed)

    def start(self, model: Any, **settings: Any) -> Sampler:
        return TorchEngine(model, **settings)


class Vllm:
    def __init__(self, directories: pytest.TempPathFactory) -> None:
        self._directories = directories

    def model(self, family: str = "qwen2", *, seed: int = 0) -> Any:
        return make_model(family, seed=seed, head_dim=32)  # the least its attention on CPU takes

    def start(self, model: Any, **settings: Any) -> Sampler:
        directory = self._directories.mktemp("model")
        model.save_pretrained(directory)
        return VllmEngine(directory, **settings)


# vLLM warns of its own use of old interfaces.
_VLLM = [pytest.param(Vllm, id="vllm", marks=pytest.mark.filterwarnings("ignore"))] if vllm_version() else []
ENGINES: list[Any] = [pytest.param(Embedded, id="torch"), *_VLLM]
