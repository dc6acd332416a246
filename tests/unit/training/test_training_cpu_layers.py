"""The learner's own layers on CPU: values and gradients of transformers' modules, whatever the row holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from deepscaler.attention import PackedAttention, forward_hidden
from deepscaler.training import cpu_attention, cpu_layers
from deepscaler.training.cpu_attention import Plan
from deepscaler.training.learner import enable_checkpointing

CPU = torch.device("cpu")
# Lengths of segments, and sequences of them: plain; one prompt of three; a prompt within a prompt.
ROWS = [
    ([1, 33, 7], None),
    ([5, 40, 1, 64], [(0, 1), (0, 2), (0, 3)]),
    ([4, 6, 9, 70], [(0, 1, 2), (0, 3), (0, 1)]),
]


def row_of(lengths: list[int], sequences: Any) -> tuple[Tensor, Tensor, PackedAttention]:
    first = [0] * len(lengths)
    for members in sequences or ():
        for place, segment in enumerate(members):
            first[segment] = sum(lengths[i] for i in members[:place])
    positions = torch.cat([torch.arange(a, a + n) for a, n in zip(first, lengths, strict=True)])
    ids = torch.randint(2, 30, (1, sum(lengths)), generator=torch.Generator().manual_seed(1))
    return ids, positions.unsqueeze(0), PackedAttention(lengths, CPU, sequences)


def results(forward: Callable[..., Tensor], model: Any, row: tuple[Any, ...]) -> list[Tensor]:
    """Hidden states and the gradient of every weight."""
    model.zero_grad(set_to_none=True)
    hidden = forward(model, *row)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2), dtype=hidden.dtype)
    (hidden * weights).sum().backward()
    return [hidden.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


def model_in_float64(tiny_model: Any, family: str) -> Any:
    model = tiny_model(family).double()
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data.normal_(1.0, 0.3, generator=torch.Generator().manual_seed(len(name)))
    return model


def own_attention(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    monkeypatch.setattr(cpu_layers, "prefers_onednn", lambda: wanted)
    monkeypatch.setattr(cpu_layers, "PAYING_SCORES", 0)


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    """Up to float32's rounding, which transformers' norms do inside of float64 models too."""
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=4e-6 * float(b.abs().max()))


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("lengths", "sequences"), ROWS)
def test_values_and_gradients_equal_those_of_the_modules(tiny_model, monkeypatch, family, own, lengths, sequences):
    own_attention(monkeypatch, own)
    model = model_in_float64(tiny_model, family)
    assert cpu_layers.suits(model)
    row = row_of(lengths, sequences)
    assert_equal(results(cpu_layers.forward_hidden, model, row), results(forward_hidden, model, row))


@pytest.mark.parametrize(("scores", "kept"), [(1, 512), (1, 0), (2**20, 0)])
def test_blocks_and_recomputed_probabilities_change_nothing(tiny_model, monkeypatch, scores, kept):
    own_attention(monkeypatch, True)
    model, row = model_in_float64(tiny_model, "qwen2"), row_of([90, 150, 30], [(0, 1), (0, 2)])
    expected = results(forward_hidden, model, row)
    monkeypatch.setattr(cpu_attention, "BLOCK_SCORES", scores)
    monkeypatch.setattr(cpu_attention, "KEPT_KEYS", kept)
    assert_equal(results(cpu_layers.forward_hidden, model, row), expected)


def test_checkpointing_changes_nothing_and_keeps_less(tiny_model, monkeypatch):
    own_attention(monkeypatch, True)
    model, row, saved = model_in_float64(tiny_model, "qwen2"), row_of([60, 60], None), []
    for switched in (False, True):
        if switched:
            enable_checkpointing(model)
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x.nbytes) or x, lambda x: x):
            hidden = cpu_layers.forward_hidden(model, *row)
        saved.append((sum(kept), results(cpu_layers.forward_hidden, model, row)))
        del hidden
    assert saved[1][0] < saved[0][0] / 3
    assert_equal(saved[1][1], saved[0][1])


def test_a_plan_attends_every_token_once_within_its_block_size():
    lengths, sequences = [500, 3000, 17], [(0, 1), (0, 2)]
    plan = Plan(PackedAttention(lengths, CPU, sequences), group=2)
    tokens = sum(lengths)
    queries = plan.queries[plan.queries < tokens]
    assert sorted(queries.tolist()) == list(range(tokens))
    assert torch.equal(plan.queries[plan.place], torch.arange(tokens))
    shapes = list(zip(plan.num_queries, plan.num_keys, strict=True))
    assert all(2 * rows * keys <= cpu_attention.BLOCK_SCORES for rows, keys in shapes)
    assert sum(plan.num_queries) < 1.1 * tokens
    assert len(set(shapes)) < len(shapes)


def test_models_that_the_layers_do_not_know_keep_their_own_modules(tiny_model):
    model = tiny_model("qwen2")
    assert cpu_layers.suits(model)
    assert not cpu_layers.suits(tiny_model("qwen2").to(torch.bfloat16))
    model.config.hidden_act = "gelu"
    assert not cpu_layers.suits(model)
