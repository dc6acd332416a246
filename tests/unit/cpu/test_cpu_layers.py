"""Fused layers: values and gradients of transformers' modules, whatever the row holds."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from deepscaler import cpu
from deepscaler.cpu.layers import FusedLayer, FusedRMSNorm, use_fused_layers
from deepscaler.cpu.matmul import OneDnnLinear
from deepscaler.cpu.settings import ACCELERATION
from deepscaler.modeling.attention import PackedAttention, forward_hidden
from deepscaler.modeling.families.registry import FUSED, family_of
from deepscaler.training.replica import enable_checkpointing

CPU = torch.device("cpu")
# Lengths of segments, and sequences of them: plain; one prompt of three; a prompt within a prompt.
ROWS = [
    ([1, 33, 7], None),
    ([5, 40, 1, 64], [(0, 1), (0, 2), (0, 3)]),
    ([4, 6, 9, 70], [(0, 1, 2), (0, 3), (0, 1)]),
]


def row_of(lengths: list[int], sequences: Any = None) -> tuple[Tensor, Tensor, PackedAttention]:
    first = [0] * len(lengths)
    for members in sequences or ():
        for place, segment in enumerate(members):
            first[segment] = sum(lengths[i] for i in members[:place])
    positions = torch.cat([torch.arange(a, a + n) for a, n in zip(first, lengths, strict=True)])
    ids = torch.randint(2, 30, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    return ids, positions.unsqueeze(0), PackedAttention(lengths, CPU, sequences)


def results(model: Any, row: tuple[Any, ...]) -> list[Tensor]:
    """Hidden states and the gradient of every weight."""
    model.zero_grad(set_to_none=True)
    hidden = forward_hidden(model, *row)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2)).to(hidden.dtype)
    (hidden * weights).sum().backward()
    return [hidden.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def with_uneven_weights(model: Any) -> Any:
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data.normal_(1.0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


def fused(model: Any, *kinds: type) -> bool:
    return any(isinstance(module, kinds) for module in model.modules())


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 8e-6) -> None:
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=tolerance * float(b.abs().max()))


@pytest.mark.parametrize("family", FUSED)
@pytest.mark.parametrize(("lengths", "sequences"), ROWS)
def test_values_and_gradients_equal_those_of_the_modules(tiny_model, family, lengths, sequences):
    model = with_uneven_weights(tiny_model(family, accelerated=False))
    exact = copy.deepcopy(model).double()
    use_fused_layers(model, family_of(model).parts)
    assert all(type(layer) is FusedLayer for layer in model.base_model.layers)
    assert type(model.base_model.norm) is FusedRMSNorm
    row = row_of(lengths, sequences)
    assert_close(results(model, row), results(exact, row))


def test_other_dtypes_and_autocast_give_the_bits_of_the_modules_own_code(tiny_model):
    for family in ("qwen2", "qwen3"):
        model = with_uneven_weights(tiny_model(family, accelerated=False)).double()
        plain, row = copy.deepcopy(model), row_of([20, 9])
        use_fused_layers(model, family_of(model).parts)
        assert all(torch.equal(a, b) for a, b in zip(results(model, row), results(plain, row), strict=True))
        model, plain = model.float(), plain.float()
        found, expected = (forward_hidden(m, *row, half=torch.bfloat16) for m in (model, plain))
        assert torch.equal(found, expected)


def test_checkpointing_changes_no_bit_and_keeps_less(tiny_model):
    model, row, saved = with_uneven_weights(tiny_model("qwen3", accelerated=False)), row_of([60, 60]), []
    use_fused_layers(model, family_of(model).parts)
    for switched in (False, True):
        if switched:
            enable_checkpointing(model)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.nbytes) or x, lambda x: x):
            hidden = forward_hidden(model, *row)
        saved.append((sum(kept), results(model, row)))
        del hidden
    assert saved[1][0] < saved[0][0] / 3
    assert all(torch.equal(a, b) for a, b in zip(saved[1][1], saved[0][1], strict=True))


def test_models_go_to_worker_processes_and_to_files_as_before(tiny_model, tmp_path):
    model, row = tiny_model("qwen2", accelerated=False), row_of([12])
    names = [name for name, _ in model.named_parameters()]
    use_fused_layers(model, family_of(model).parts)
    use_fused_layers(model, family_of(model).parts)  # twice, as when learner and engine share a model
    assert [name for name, _ in model.named_parameters()] == names
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(forward_hidden(model, *row), forward_hidden(again, *row))
    assert forward_hidden(again.double(), *row).dtype == torch.float64
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_only_known_layers_in_float32_are_replaced_and_none_when_switched_off(tiny_model, request):
    model = tiny_model("qwen2", accelerated=False)
    model.config.hidden_act = "gelu"
    parts = family_of(model).parts
    assert not fused(cpu.accelerate(model, parts), FusedLayer)
    half = tiny_model("qwen2", accelerated=False).bfloat16()
    assert not fused(cpu.accelerate(half, parts), FusedLayer, FusedRMSNorm)
    assert fused(tiny_model("qwen2"), FusedLayer) and fused(tiny_model("qwen2"), FusedRMSNorm)
    request.getfixturevalue("without_acceleration")
    assert not fused(tiny_model("qwen2"), FusedLayer, FusedRMSNorm, OneDnnLinear)


def test_a_switch_that_is_neither_on_nor_off_is_refused(without_acceleration, monkeypatch):
    monkeypatch.setenv(ACCELERATION, "off")
    with pytest.raises(ValueError, match=r"DEEPSCALER_CPU_ACCELERATION is 'off'; set it to 0 \(plain torch\), or to 1"):
        cpu.is_accelerated()


def test_a_forward_pass_of_transformers_own_attention_still_works(tiny_model):
    model, plain = tiny_model("qwen3"), tiny_model("qwen3", accelerated=False)
    ids = torch.arange(2, 12).unsqueeze(0)
    for each in (model, plain):
        each.set_attn_implementation("eager")
    with torch.no_grad():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, atol=1e-4, rtol=1e-5)
