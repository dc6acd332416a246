"""Weights of the vLLM engine: which files it reads, what it loads, and the digest of what it samples from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from deepscaler.engines.vllm import engine as vllm_engine
from deepscaler.engines.vllm.engine import VllmEngine
from deepscaler.modeling.positions import cast_parameters
from deepscaler.modeling.weights import LiveWeights, weights_digest
from deepscaler.types import RunError
from tiny_run import write_model
from vllm_engines import PARAMS, STOP, requests, start, worst_error

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM's own


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_after_loading_weights_the_samples_are_theirs(
    tiny_model: Callable[..., Any], tmp_path: Path, family: str, tied: bool
) -> None:
    model, other = (tiny_model(family, seed=seed, tied=tied, head_dim=32) for seed in (0, 9))
    engine = start(model, tmp_path)
    assert engine.weights_info().digest == weights_digest(model.named_parameters())
    assert worst_error(list(engine.generate(requests(), PARAMS)), model, 0.9) < 5e-5
    engine.load_weights(LiveWeights(7, other.named_parameters))
    rollouts = list(engine.generate(requests(), PARAMS))
    assert worst_error(rollouts, other, 0.9) < 5e-5 and {r.policy_version for r in rollouts} == {7}
    assert engine.weights_info().digest == weights_digest(other.named_parameters())


def test_a_stale_packed_output_layer_is_found(
    tiny_model: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault of vLLM 0.32 on CPU that loading repairs: without the repair the digest is refused, not reported."""
    engine = start(tiny_model(head_dim=32), tmp_path)
    other = tiny_model(seed=9, head_dim=32)
    with monkeypatch.context() as unrepaired:
        unrepaired.setattr(vllm_engine, "repack_tied_head", lambda model: None)
        with pytest.raises(RunError, match="a stale packed copy"):
            engine.load_weights(LiveWeights(1, other.named_parameters))
    assert worst_error(list(engine.generate(requests(), PARAMS)), other, 0.9) > 0.1
    engine.load_weights(LiveWeights(2, other.named_parameters))
    assert engine.weights_info().digest == weights_digest(other.named_parameters())


def test_weights_that_are_not_the_whole_model_are_refused_and_change_nothing(
    tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model(head_dim=32)
    engine = start(model, tmp_path)
    given = {name: weight.detach() for name, weight in tiny_model(seed=9, head_dim=32).named_parameters()}
    name = "model.layers.0.self_attn.k_proj.weight"
    with pytest.raises(
        ValueError, match=r"weights are missing, 1 in all, the first of them model\.layers\.0\.self_attn\.k_proj"
    ):
        engine.load_weights(LiveWeights(1, lambda: [pair for pair in given.items() if pair[0] != name]))
    with pytest.raises(ValueError, match=r"has shape \(64, 64\), vLLM's model has \(64, 128\)"):
        engine.load_weights(LiveWeights(1, {**given, name: torch.zeros(64, 64)}.items))
    with pytest.raises(KeyError, match="unheard_of"):
        engine.load_weights(LiveWeights(1, {**given, "unheard_of": torch.zeros(1)}.items))
    assert engine.weights_info().digest == weights_digest(model.named_parameters())
    with pytest.raises(NotImplementedError):  # fails half-way: there is nothing to copy
        engine.load_weights(LiveWeights(1, {**given, name: torch.empty(64, 128, device="meta")}.items))
    for use in (engine.weights_info, lambda: next(engine.generate(requests(), PARAMS))):
        with pytest.raises(RunError, match="loading weights into it failed; start a new one"):
            use()


def test_negative_zeros_do_not_change_the_digest(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    engine = start(model, tmp_path)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0].fill_(-0.0)
    engine.load_weights(LiveWeights(1, model.named_parameters))
    assert engine.weights_info().digest == weights_digest(model.named_parameters())


def test_bfloat16_weights_are_those_of_the_learner_cast(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model, other = (tiny_model(seed=seed, head_dim=32) for seed in (0, 9))
    engine = start(model, tmp_path, dtype=torch.bfloat16)
    engine.load_weights(LiveWeights(1, other.named_parameters))
    assert engine.weights_info().digest == weights_digest(other.named_parameters(), torch.bfloat16)
    rollouts = list(engine.generate(requests(), PARAMS))
    assert worst_error(rollouts, cast_parameters(cast_parameters(other, torch.bfloat16), torch.float32), 0.9) < 0.5


def test_other_weights_beside_the_model_are_not_taken_for_it(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    """A run's checkpoint keeps its reference there, under the same names; vLLM reads every file it finds."""
    model, other = (tiny_model(seed=seed, head_dim=32) for seed in (0, 9))
    model.save_pretrained(tmp_path)
    save_file({name: weight.detach() for name, weight in other.named_parameters()}, tmp_path / "reference.safetensors")
    engine = start(model, tmp_path)
    assert engine.weights_info().digest == weights_digest(model.named_parameters())


def test_a_model_in_several_files_is_read_whole(tiny_model: Callable[..., Any], tmp_path: Path) -> None:
    model = tiny_model(head_dim=32)
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    engine = VllmEngine(tmp_path, stop_ids=STOP)
    assert engine.weights_info().digest == weights_digest(model.named_parameters())
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(ValueError, match=r"holds neither model\.safetensors nor model"):
        VllmEngine(tmp_path, stop_ids=STOP)


def test_a_model_that_vllm_builds_with_other_shapes_is_refused(tmp_path: Path) -> None:
    write_model(tmp_path, hidden_size=32, head_dim=32)  # two heads of 32 in a width of 32; vLLM takes them for 16
    with pytest.raises(ValueError, match=r"vLLM built the model with .* use the torch engine"):
        VllmEngine(tmp_path, stop_ids=STOP)
