"""What runs inside a vLLM server: it loads published files and reads back what the model would sample from."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from deepscaler.engines.vllm_shared import SEARCH_PATH
from deepscaler.engines.vllm_shared.in_server.deepscaler_vllm.authorization import RequireKey
from deepscaler.engines.vllm_shared.in_server.deepscaler_vllm.extension import WorkerExtension
from deepscaler.engines.vllm_shared.in_server.deepscaler_vllm.held_weights import tensor_digest
from deepscaler.modeling.published_files import FileWeights, write_weights
from deepscaler.modeling.weights import differing_tensors, tensor_digests


class Projections(nn.Module):
    """Two projections in one matrix, as vLLM keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.input_size, self.output_sizes = 3, [4, 2]
        self.weight = nn.Parameter(torch.zeros(6, 3))
        self.bias = nn.Parameter(torch.zeros(6))


class FusedModel(nn.Module):
    """As vLLM builds it: `gate_up_proj` for transformers' `gate_proj` and `up_proj`."""

    packed_modules_mapping: ClassVar = {"gate_up_proj": ["gate_proj", "up_proj"]}

    def __init__(self) -> None:
        super().__init__()
        self.gate_up_proj = Projections()
        self.norm = nn.LayerNorm(3, bias=False)

    def load(self, given: Iterable[tuple[str, Tensor]]) -> None:
        rows = {"gate_proj": slice(0, 4), "up_proj": slice(4, 6)}
        for name, tensor in given:
            module, _, parameter = name.rpartition(".")
            target = self.norm.weight if module == "norm" else getattr(self.gate_up_proj, parameter)[rows[module]]
            with torch.no_grad():
                target.copy_(tensor)


class Worker(WorkerExtension):
    """skips: a tensor that its model never loads. shifts: added to what the model holds after loading."""

    def __init__(self, skips: str = "", shift: float = 0.0) -> None:
        model = FusedModel()

        def reload(weights_iterator: Iterator[tuple[str, Tensor]]) -> None:
            model.load(pair for pair in weights_iterator if pair[0] != skips)
            with torch.no_grad():
                model.gate_up_proj.weight[5, 2] += shift

        self.model_runner = SimpleNamespace(get_model=lambda: model)
        self.reload_weights = reload


def weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {"norm.weight": (3,)}
    for name, rows in (("gate_proj", 4), ("up_proj", 2)):
        shapes |= {f"{name}.weight": (rows, 3), f"{name}.bias": (rows,)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    made["up_proj.bias"][0] = -0.0
    return made


def published(tmp_path: Path, changes: dict[str, Tensor | None] | None = None) -> FileWeights:
    given = {name: tensor for name, tensor in {**weights(), **(changes or {})}.items() if tensor is not None}
    return write_weights(tmp_path, 1, given.items(), "float32")


def test_fused_tensors_are_split_back_and_the_digests_are_those_of_the_learner(tmp_path: Path) -> None:
    files = published(tmp_path)
    answer = Worker().deepscaler_load(str(files.directory))
    assert answer == {"digests": dict(files.tensor_digests("float32"))}
    assert {name: tensor_digest(name, weight) for name, weight in weights().items()} == tensor_digests(
        weights().items()
    )


@pytest.mark.parametrize(
    ("worker", "named"),
    [(Worker(skips="gate_proj.bias"), "gate_proj.bias"), (Worker(shift=2.0**-20), "up_proj.weight")],
)
def test_a_tensor_that_did_not_arrive_or_changed_in_its_last_bits_has_another_digest(
    tmp_path: Path, worker: Worker, named: str
) -> None:
    files = published(tmp_path)
    answer = worker.deepscaler_load(str(files.directory))
    assert differing_tensors(files, answer["digests"], "float32") == [named]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"up_proj.bias": None}, "ValueError: weights are missing, 1 in all, the first of them up_proj.bias"),
        ({"up_proj.bias": torch.zeros(3)}, "ValueError: weight up_proj.bias has shape (3,)"),
        ({"unheard_of": torch.zeros(3)}, "KeyError: 'unheard_of'"),
    ],
)
def test_weights_that_are_not_the_whole_model_are_refused_before_any_is_loaded(
    tmp_path: Path, changes: dict[str, Tensor | None], said: str
) -> None:
    answer = Worker().deepscaler_load(str(published(tmp_path, changes).directory))
    assert answer["error"].startswith(said) and answer["changed"] is False


def test_half_a_file_or_none_is_an_answer_and_no_exception(tmp_path: Path) -> None:
    files = published(tmp_path)
    file = files.directory / files.files[0]
    file.write_bytes(file.read_bytes()[:-8])
    assert Worker().deepscaler_load(str(files.directory))["error"].startswith("SafetensorError")
    assert Worker().deepscaler_load(str(tmp_path / "none"))["error"].startswith("FileNotFoundError")


def test_it_is_found_in_an_environment_without_this_package() -> None:
    site = [path for path in sys.path if path.endswith("site-packages")]
    code = (
        f"import sys; sys.path += {site!r}; import deepscaler_vllm.extension, deepscaler_vllm.authorization;"
        "print('deepscaler' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(SEARCH_PATH)}
    command = [sys.executable, "-S", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("False", 0), done.stderr


@pytest.mark.parametrize(
    ("header", "status"), [(b"Bearer right", None), (b"Bearer wrong", 401), (b"", 401), (b"right", 401)]
)
def test_every_route_needs_the_key(monkeypatch: pytest.MonkeyPatch, header: bytes, status: int | None) -> None:
    monkeypatch.setenv("VLLM_API_KEY", "right")
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        sent.append("served")

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> None:
        return None

    scope = {"type": "http", "path": "/collective_rpc", "headers": [(b"authorization", header)] if header else []}
    asyncio.run(RequireKey(app)(scope, receive, send))
    assert (sent == ["served"]) if status is None else (sent[0]["status"] == status and "served" not in sent)
