"""Fused operations: values and gradients of their torch references in float64, on random inputs of every width."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deepscaler.cpu import fused_ops
from deepscaler.cpu.fused_ops import rms_norm, rotary, silu_mul

SHAPES = [(1, 5), (7, 3), (65, 16), (64, 40), (130, 129)]


def random(*shape: int, seed: int = 0, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same_as_reference(operation: Any, inputs: list[Tensor]) -> None:
    """Values and gradients in float32, by the kernel, are those in float64, by torch, up to rounding."""
    results = []
    for dtype in (torch.float32, torch.float64):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        outputs = operation(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        terms = [(o * random(*o.shape, seed=9 + i).to(dtype)).sum() for i, o in enumerate(outputs)]
        torch.stack(terms).sum().backward()
        results.append([*(o.detach() for o in outputs), *(x.grad for x in leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=3e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_norms_with_and_without_a_branch(shape):
    x, branch, weight = random(*shape), random(*shape, seed=1), random(shape[1], seed=2)
    same_as_reference(lambda x, w: rms_norm(x, None, w, 1e-6), [x, weight])
    same_as_reference(lambda x, w: rms_norm(x, None, w, 1e-6)[0], [x, weight])
    same_as_reference(lambda x: rms_norm(x, None, weight.to(x), 1e-6)[1], [x])
    same_as_reference(lambda x, b, w: rms_norm(x, b, w, 1e-6), [x, branch, weight])


@pytest.mark.parametrize("shape", SHAPES)
def test_gates_also_far_from_zero(shape):
    same_as_reference(silu_mul, [random(*shape, scale=4.0), random(*shape, seed=1)])
    far = torch.tensor([[-200.0, -80.0, 0.0, 80.0, 200.0]])
    torch.testing.assert_close(silu_mul(far, torch.ones_like(far)), F.silu(far), rtol=1e-6, atol=1e-35)


@pytest.mark.parametrize(("tokens", "heads", "width"), [(1, 1, 2), (9, 3, 8), (20, 2, 32), (5, 4, 48)])
def test_rotation_and_its_gradient(tokens, heads, width):
    angles = random(tokens, width // 2, seed=3).repeat(1, 2)
    same_as_reference(lambda x: rotary(x, angles.cos(), angles.sin()), [random(tokens, heads, width)])


@pytest.mark.parametrize("shape", [(3, 1), (4, 15), (5, 16), (6, 2048), (3, 5003)])
@pytest.mark.parametrize("scale", [0.1, 3.0, 30.0])
def test_softmax_with_what_the_loss_needs(shape, scale):
    logits = random(*shape, scale=scale)
    targets = torch.randint(0, shape[1], (shape[0],), generator=torch.Generator().manual_seed(1))
    exact = logits.double().log_softmax(-1)
    p = logits.clone()
    logprobs, log_sums, entropies = fused_ops.softmax(p, targets, p)  # over its own input, as chunks do
    torch.testing.assert_close(p.double(), exact.exp(), rtol=2e-5, atol=1e-37)
    torch.testing.assert_close(logprobs.double(), exact.gather(1, targets[:, None])[:, 0], rtol=1e-6, atol=4e-6)
    torch.testing.assert_close(log_sums.double(), logits.double().logsumexp(-1), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(entropies.double(), -(exact.exp() * exact).sum(-1), rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_seen_in_the_result(bad):
    """The learner stops a run by what it finds there."""
    x = random(4, 40)
    x[2, 37] = bad
    ones = torch.ones(40)
    assert not rms_norm(x, None, ones, 1e-6)[0][2].isfinite().all()
    assert not silu_mul(x, x)[2].isfinite().all()
    p = x.clone()
    logprobs, log_sums, _ = fused_ops.softmax(p, torch.zeros(4, dtype=torch.int64), p)
    assert logprobs.isfinite().tolist() == [True, True, False, True] == log_sums.isfinite().tolist()


def test_the_same_input_gives_the_same_bits():
    x, weight = random(100, 96), random(96, seed=1)
    results = []
    for _ in range(2):
        leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
        out: Any = rms_norm(leaves[0], None, leaves[1], 1e-6)
        out[0].sum().backward()
        results.append([out[0], *(leaf.grad for leaf in leaves)])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_inputs_that_are_not_contiguous():
    x, up = random(12, 30).T, random(24, 60, seed=1)[:, ::5].T[:, ::2][:12].T
    torch.testing.assert_close(silu_mul(x, x), F.silu(x) * x)
    assert not up.is_contiguous()
    leaf = up.clone().requires_grad_()
    out: Any = rms_norm(leaf.T, None, torch.ones(len(up)), 1e-6)
    out[0].T.sum().backward()
    assert leaf.grad is not None
    again = up.double().requires_grad_()
    rms_norm(again.T, None, torch.ones(len(up)), 1e-6)[0].sum().backward()
    torch.testing.assert_close(leaf.grad.double(), again.grad, rtol=1e-4, atol=1e-5)
