"""bfloat16 products over float32 weights: what reaches the kernels, and how exact the head is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.attention import varlen

from bare_recipe import bare_recipe
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.modeling import attention
from deepscaler.modeling.attention import PackedAttention, forward_hidden
from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.logprobs import token_logprobs
from deepscaler.types import TrainSample
from policy_learners import policy_learner

CPU = torch.device("cpu")


def varlen_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begins: Tensor,
    key_begins: Tensor,
    longest: int,
    longest_key: int,
    *,
    window_size: tuple[int, int],
    scale: float,
) -> Tensor:
    """What torch's documentation says of causal `varlen_attn`, one sequence after the other."""
    assert query.dtype == key.dtype == value.dtype and begins.dtype == torch.int32 and window_size == (-1, 0)
    assert query.shape == key.shape == value.shape and longest == int(begins.diff().max())
    pieces = [x.split(begins.diff().tolist()) for x in (query, key, value)]
    out = [
        torch.nn.functional.scaled_dot_product_attention(
            *(x.transpose(0, 1) for x in qkv), is_causal=True, scale=scale
        ).transpose(0, 1)
        for qkv in zip(*pieces, strict=True)
    ]
    return torch.cat(out)


def test_the_variable_length_kernel_gets_what_it_wants_and_gives_the_same_gradients(
    tiny_model: Callable[..., Any],
    make_samples_of: Callable[..., list[TrainSample]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Shared prompts included: the row is laid out sequence by sequence for the kernel, and put together again."""
    shared = make_samples_of([9, 4, 12])
    samples = [TrainSample(shared[0].prompt_ids, *_rest(s)) for s in shared] + make_samples_of([5], seed=3)
    results = []
    for taken in (False, True):
        monkeypatch.setattr(varlen, "varlen_attn", varlen_reference)
        monkeypatch.setattr(attention, "takes_varlen", lambda query, taken=taken: taken)
        model = tiny_model()
        computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
        computer.accumulate(samples, None, None)
        results.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(*results, atol=1e-5, rtol=1e-4)


def _rest(sample: TrainSample) -> tuple[Any, ...]:
    fields = ("completion_ids", "rollout_logprobs", "advantage", "token_weights", "policy_version")
    return tuple(getattr(sample, name) for name in fields)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_gets_one_half_precision_type_though_the_rotation_is_float32(
    tiny_model: Callable[..., Any], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()

    def recording(query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None) -> Tensor:
        seen.update(x.dtype for x in (query, key, value))
        return original(query, key, value, scaling, window)

    original = attention.causal
    monkeypatch.setattr(attention, "causal", recording)
    ids = torch.randint(2, 40, (1, 12))
    context = PackedAttention([5, 7], CPU)
    hidden = forward_hidden(tiny_model(family), ids, torch.arange(12)[None], context, half=torch.bfloat16)
    assert seen == {torch.bfloat16} and hidden.dtype == torch.float32


def test_a_float32_head_rounds_nothing_of_its_products() -> None:
    torch.manual_seed(0)
    hidden, weight = (torch.randn(n, 64).to(torch.bfloat16) for n in (50, 300))
    weight *= 4
    targets = torch.randint(0, 300, (50,))
    exact = torch.log_softmax(hidden.double() @ weight.double().T / 0.7, -1)
    expected = exact.gather(1, targets[:, None])[:, 0], -(exact.exp() * exact).sum(-1)
    errors = []
    for wide in (False, True):
        found = token_logprobs(hidden, weight, targets, temperature=0.7, chunk_tokens=16, float32_logits=wide)
        errors.append([float((a - b).abs().max()) for a, b in zip(found, expected, strict=True)])
    assert max(errors[1]) < 2e-4 < 0.02 < min(errors[0])


def test_gradients_of_a_float32_head_are_right_to_the_rounding_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deepscaler.training.logprobs.KEPT_BYTES", 0)  # the logits are made again, as for large ones
    torch.manual_seed(0)
    hidden, weight = (torch.randn(n, 64).to(torch.bfloat16).requires_grad_() for n in (50, 300))
    targets = torch.randint(0, 300, (50,))
    values, entropies = token_logprobs(hidden, weight, targets, temperature=1.0, chunk_tokens=16, float32_logits=True)
    (values.sum() + 0.1 * entropies.sum()).backward()
    h, w = hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()
    log_p = torch.log_softmax(h @ w.T, -1)
    (log_p.gather(1, targets[:, None]).sum() - 0.1 * (log_p.exp() * log_p).sum()).backward()
    for found, exact in ((hidden.grad, h.grad), (weight.grad, w.grad)):
        assert found is not None and exact is not None
        assert float((found.double() - exact).norm() / exact.norm()) < 0.01


def test_the_learner_uses_the_head_its_recipe_asks_for(
    tiny_model: Callable[..., Any], make_samples_of: Callable[..., list[TrainSample]]
) -> None:
    samples = make_samples_of([9, 6])

    def logprobs(**model: Any) -> np.ndarray:
        return np.concatenate(policy_learner(tiny_model(), bare_recipe(**model)).computer.logprobs(samples))

    narrow, wide = logprobs(dtype="bfloat16"), logprobs(dtype="bfloat16", float32_head=True)
    full = logprobs(dtype="float32")
    assert (narrow != wide).any()
    np.testing.assert_array_equal(full, logprobs(dtype="float32", float32_head=True))
    np.testing.assert_allclose(wide, full, atol=0.3)


def test_gradients_take_no_memory_after_an_update(
    tiny_model: Callable[..., Any], make_samples_of: Callable[..., list[TrainSample]]
) -> None:
    learner = policy_learner(tiny_model(), bare_recipe())
    before = [p.detach().clone() for p in learner.model.parameters()]
    learner.update(make_samples_of([5, 8]))
    assert all(p.grad is None for p in learner.model.parameters())
    assert any((a != b).any() for a, b in zip(before, learner.model.parameters(), strict=True))


def test_checkpointing_in_mixed_precision_changes_no_gradient(
    tiny_model: Callable[..., Any], make_samples_of: Callable[..., list[TrainSample]]
) -> None:
    samples, gradients = make_samples_of([9, 4]), []
    for checkpointing in (False, True):
        model = tiny_model()
        learner = policy_learner(model, bare_recipe(dtype="bfloat16", activation_checkpointing=checkpointing))
        learner.computer.accumulate(samples, None, None)
        gradients.append(torch.cat([p.grad.reshape(-1) for p in model.parameters()]))
    torch.testing.assert_close(*gradients, atol=0, rtol=0)
