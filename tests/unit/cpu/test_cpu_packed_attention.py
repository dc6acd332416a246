"""Attention of packed segments on CPU: values and gradients of torch in float64, whatever the row holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.cpu.packed_attention import FusedAttention
from deepscaler.modeling.attention import PackedAttention
from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.replica import enable_checkpointing

CPU = torch.device("cpu")
SCALING = 0.3
# Lengths of segments, and sequences of them: plain; one prompt of several; a prompt within a prompt; long ones.
ROWS: list[tuple[list[int], Any]] = [
    ([1, 31, 33], None),
    ([5, 40, 1, 64], [(0, 1), (0, 2), (0, 3)]),
    ([4, 6, 9, 70], [(0, 1, 2), (0, 3), (0, 1)]),
    ([160, 31, 500], [(0, 1), (0, 2)]),
]
SHAPES = [(4, 4, 20), (4, 2, 32), (4, 1, 64), (2, 1, 128), (3, 1, 33)]  # query heads, key-value heads, width


def inputs(tokens: int, heads: int, kv_heads: int, width: int, *, seed: int = 1) -> list[Tensor]:
    """Query, key, value and the gradient of the output, float64."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(tokens, count, width, generator=generator, dtype=torch.float64)
        for count in (heads, kv_heads, kv_heads, heads)
    ]


def with_gradients(attend: Any, *tensors: Tensor) -> list[Tensor]:
    """Output and gradients of query, key and value."""
    leaves = [x.detach().requires_grad_() for x in tensors[:3]]
    out = attend(*leaves)
    return [out.detach(), *torch.autograd.grad(out, leaves, tensors[3])]


def of_ours(attention: PackedAttention, *tensors: Tensor) -> list[Tensor]:
    segments = attention.segment_keys

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Any:
        return FusedAttention.apply(query, key, value, SCALING, segments)

    return with_gradients(attend, *(x.float() for x in tensors))


def of_torch(attention: PackedAttention, *tensors: Tensor) -> list[Tensor]:
    def attend(*leaves: Tensor) -> Tensor:
        query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in leaves)
        return attention.attend(0, query, key, value, SCALING)[0].transpose(0, 1)

    return with_gradients(attend, *tensors)


@pytest.mark.parametrize(("lengths", "sequences"), ROWS)
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients_equal_those_of_torch_in_float64(lengths, sequences, shape):
    attention = PackedAttention(lengths, CPU, sequences)
    tensors = inputs(sum(lengths), *shape, seed=sum(lengths) + shape[2])
    for found, expected in zip(of_ours(attention, *tensors), of_torch(attention, *tensors), strict=True):
        assert found.is_contiguous()
        assert (found - expected).norm() <= 3e-6 * expected.norm()
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_large_scores_neither_overflow_nor_vanish():
    attention = PackedAttention([40], CPU)
    query, *others = inputs(40, 2, 1, 32)
    tensors = [200 * query, *others]
    for found, expected in zip(of_ours(attention, *tensors), of_torch(attention, *tensors), strict=True):
        assert (found - expected).norm() <= 1e-3 * expected.norm()


def test_views_are_read_as_they_are():
    attention = PackedAttention([30, 9], CPU)
    tensors = [x.float() for x in inputs(39, 4, 2, 32)]
    expected = of_ours(attention, *tensors)
    joined = torch.cat([x.flatten(1) for x in tensors[:3]], 1)
    query, key, value = (x.view(39, -1, 32) for x in joined.split([128, 64, 64], 1))
    turned = tensors[3].permute(2, 0, 1).contiguous().permute(1, 2, 0)
    columns = value.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    for a, b in zip(of_ours(attention, query, key, columns, turned), expected, strict=True):
        assert torch.equal(a, b)


def test_bits_repeat_and_depend_on_nothing_but_the_sequence():
    lengths = [20, 33, 47]
    attention = PackedAttention(lengths, CPU, [(0, 1), (0, 2)])
    tensors = inputs(100, 4, 2, 32)
    first, second = of_ours(attention, *tensors), of_ours(attention, *tensors)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    alone = of_ours(PackedAttention([67], CPU), *(torch.cat([x[:20], x[53:]]) for x in tensors))
    torch.testing.assert_close(first[0][53:], alone[0][20:], rtol=2e-6, atol=2e-6)  # strips begin elsewhere
    order = torch.cat([torch.arange(53, 100), torch.arange(53)])
    moved = of_ours(PackedAttention([47, 20, 33], CPU, [(1, 2), (1, 0)]), *(x[order] for x in tensors))
    assert torch.equal(moved[0], first[0][order])
    assert torch.equal(moved[1], first[1][order])


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", range(3))
def test_what_is_not_finite_reaches_outputs_and_gradients(which, number):
    attention = PackedAttention([10, 50], CPU)
    tensors = inputs(60, 2, 1, 32)
    tensors[which][30, 0, 5] = number
    out, *gradients = of_ours(attention, *tensors)
    assert not out[30:].isfinite().all()
    assert out[:10].isfinite().all(), "another sequence sees nothing of it"
    if number is torch.nan:
        assert any(not x.isfinite().all() for x in gradients)


def test_memory_grows_with_the_tokens_and_checkpointing_changes_nothing():
    attention = PackedAttention([60, 40], CPU)
    tensors = [x.float() for x in inputs(100, 4, 2, 32)]
    segments = attention.segment_keys
    kept: list[int] = []

    def attend(*leaves: Tensor) -> Any:
        return FusedAttention.apply(*leaves, SCALING, segments)

    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        plain = with_gradients(attend, *tensors)
    assert sum(kept) == 100 * (2 * 4 * 32 + 2 * 2 * 32 + 2 * 4)
    again = with_gradients(lambda *x: checkpoint(attend, *x, use_reentrant=False), *tensors)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    with torch.no_grad():
        assert torch.equal(attend(*tensors[:3]), plain[0])


def test_a_second_derivative_is_refused():
    leaves = [x.float().requires_grad_() for x in inputs(5, 1, 1, 8)[:3]]
    out: Any = FusedAttention.apply(*leaves, SCALING, PackedAttention([5], CPU).segment_keys)
    (grad,) = torch.autograd.grad(out.square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


@pytest.mark.parametrize("family", FAMILIES)
def test_an_update_is_the_same_without_acceleration(tiny_model, make_samples_of, request, family):
    results = []
    for accelerated in (True, False):
        if not accelerated:
            request.getfixturevalue("without_acceleration")
        model = tiny_model(family)
        computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
        samples = make_samples_of([40, 9, 70])
        values = torch.from_numpy(np.concatenate(computer.logprobs(samples)))
        computer.accumulate(samples, None, None)
        results.append([values, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_checkpointing_of_a_model_changes_nothing(tiny_model, make_samples_of):
    samples, results = make_samples_of([40, 9, 70]), []
    for checkpointed in (False, True):
        model = tiny_model()
        if checkpointed:
            enable_checkpointing(model)
        GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0).accumulate(
            samples, None, None
        )
        results.append([p.grad for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_other_dtypes_and_a_switched_off_acceleration_go_to_torch(monkeypatch, request):
    used: list[torch.dtype] = []
    monkeypatch.setattr(FusedAttention, "apply", lambda query, *_: used.append(query.dtype) or query)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        query, key = (torch.randn(1, n, 20, 8, dtype=dtype) for n in (4, 2))
        PackedAttention([20], CPU).attend(0, query, key, key, 1.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        PackedAttention([20], CPU).attend(0, query.float(), key.float(), key.bfloat16(), 1.0)
    request.getfixturevalue("without_acceleration")
    PackedAttention([20], CPU).attend(0, query.float(), key.float(), key.float(), 1.0)
    assert used == [torch.float32]
