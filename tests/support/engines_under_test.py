"""The engines that the conformance suite runs on: the embedded one, and where it is installed vLLM in both homes."""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.generic_engine import make_engine
from deepscaler.engines.vllm.engine import VllmEngine
from deepscaler.engines.vllm.installation import vllm_version
from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.protocols import Sampler
from tiny_models import GENERIC, make_generic, make_model


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


class EmbeddedGeneric(Embedded):
    """Models without a family of ours, each kind in the place of one of the families."""

    def model(self, family: str = "qwen2", *, seed: int = 0) -> Any:
        place = list(FAMILIES).index(family)
        if place >= len(GENERIC):
            pytest.skip("every kind was run in the place of another family")
        return make_generic(list(GENERIC)[place], seed=seed)

    def start(self, model: Any, **settings: Any) -> Sampler:
        return make_engine(model, **settings)


class Vllm:
    def __init__(self, directories: pytest.TempPathFactory) -> None:
        self._directories = directories

    def model(self, family: str = "qwen2", *, seed: int = 0) -> Any:
        return make_model(family, seed=seed, head_dim=32)  # the least its attention on CPU takes

    def start(self, model: Any, **settings: Any) -> Sampler:
        directory = self._directories.mktemp("model")
        model.save_pretrained(directory)
        return VllmEngine(directory, **settings)


class VllmServer(Vllm):
    def start(self, model: Any, **settings: Any) -> Sampler:
        from vllm_servers import start_sampler

        return start_sampler(model, stop_ids=settings["stop_ids"])


# vLLM warns of its own use of old interfaces.
_IGNORED = pytest.mark.filterwarnings("ignore")
_VLLM = [
    pytest.param(Vllm, id="vllm", marks=_IGNORED),
    pytest.param(VllmServer, id="vllm_server", marks=_IGNORED),
]
ENGINES: list[Any] = [
    pytest.param(Embedded, id="torch"),
    pytest.param(EmbeddedGeneric, id="generic"),
    *(_VLLM if vllm_version() else []),
]
