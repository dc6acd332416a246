"""Weights are read from files by name and shape, or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepscaler.modeling.load import load_model
from deepscaler.training.weight_parts import is_on_meta, read_parameters
from tiny_models import make_model


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_built_without_weights_is_otherwise_the_one_in_the_files(tmp_path: Path, tied: bool) -> None:
    expected = make_model(tied=tied)
    expected.save_pretrained(tmp_path)
    model = load_model(tmp_path, on_meta=True)
    assert is_on_meta(model)
    wanted = {name: weight.shape for name, weight in expected.named_parameters()}
    assert {name: weight.shape for name, weight in model.named_parameters()} == wanted
    assert all(weight.is_meta for weight in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), expected.buffers(), strict=True))
    assert [type(module).__name__ for module in model.modules()] == [type(m).__name__ for m in expected.modules()]


def test_files_with_other_names_are_loaded_as_a_whole(tmp_path: Path) -> None:
    expected = make_model()
    expected.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name.removeprefix("model."): t for name, t in load_file(file).items()}, file, {"format": "pt"})
    model = load_model(tmp_path, on_meta=True)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def test_a_weight_of_another_shape_is_refused(tmp_path: Path) -> None:
    model = make_model()
    stored = {name: p.detach() for name, p in model.named_parameters()}
    stored["model.norm.weight"] = torch.ones(64)
    save_file(stored, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"model.norm.weight has shape \(64,\) instead of \(32,\)"):
        read_parameters(dict(model.named_parameters()), [tmp_path / "w.safetensors"])
