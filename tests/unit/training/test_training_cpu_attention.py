"""The learner's attention on CPU: values and gradients of torch's kernel, whatever the row holds."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deepscaler.attention import PackedAttention
from deepscaler.config.models import AlgorithmSection, TrainingSection
from deepscaler.training import cpu_attention, products
from deepscaler.training.cpu_attention import CpuPackedAttention, Plan, SegmentAttention
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.learner import enable_checkpointing

CPU = torch.device("cpu")
HEADS, KV_HEADS, WIDTH = 4, 2, 8
# Lengths of segments, and sequences of them: plain; one prompt of three; a prompt within a prompt; many blocks.
ROWS: list[tuple[list[int], Any]] = [
    ([1, 33, 7], None),
    ([5, 40, 1, 64], [(0, 1), (0, 2), (0, 3)]),
    ([4, 6, 9, 70], [(0, 1, 2), (0, 3), (0, 1)]),
    ([90, 150, 30], [(0, 1), (0, 2)]),
]


@pytest.fixture
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products that take float64, in which all digits compare."""
    monkeypatch.setattr(products, "prefers_onednn", lambda: False)


def attended(attention: PackedAttention, lengths: list[int], *, own: bool) -> list[Tensor]:
    """Output and gradients of query, key and value."""
    generator = torch.Generator().manual_seed(1)
    query, key, value, weights = (
        torch.randn(1, sum(lengths), heads, WIDTH, generator=generator, dtype=torch.float64)
        for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)
    )
    leaves = [x.requires_grad_() for x in (query, key, value)]
    if own:
        plan = Plan(attention, HEADS // KV_HEADS)
        out: Any = SegmentAttention.apply(query[0], key[0], value[0], 0.3, plan)
        out = out.unsqueeze(0)
    else:
        out = attention.attend(0, query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), 0.3).transpose(
            1, 2
        )
    (out * weights).sum().backward()
    assert all(x.grad is not None for x in leaves)
    return [out.detach(), *(x.grad for x in leaves if x.grad is not None)]


@pytest.mark.parametrize(("lengths", "sequences"), ROWS)
@pytest.mark.parametrize(("scores", "kept"), [(2**20, 512), (1, 512), (1, 0), (2**20, 0)])
def test_values_and_gradients_equal_those_of_torch(float64, monkeypatch, lengths, sequences, scores, kept):
    monkeypatch.setattr(cpu_attention, "BLOCK_SCORES", scores)
    monkeypatch.setattr(cpu_attention, "KEPT_KEYS", kept)
    attention = PackedAttention(lengths, CPU, sequences)
    found, expected = (attended(attention, lengths, own=own) for own in (True, False))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_an_update_is_the_same_with_either_attention(tiny_model, make_samples_of, monkeypatch, family):
    results = []
    for least in (0, 10**9):
        monkeypatch.setattr(cpu_attention, "prefers_onednn", lambda: True)
        monkeypatch.setattr(cpu_attention, "PAYING_SCORES", least)
        model = tiny_model(family)
        computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
        samples = make_samples_of([40, 9, 70])
        values = torch.from_numpy(np.concatenate(computer.logprobs(samples)))
        computer.accumulate(samples, None, None)
        results.append([values, *(p.grad for p in model.parameters())])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


def test_checkpointing_changes_nothing(tiny_model, make_samples_of, monkeypatch):
    monkeypatch.setattr(cpu_attention, "prefers_onednn", lambda: True)
    monkeypatch.setattr(cpu_attention, "PAYING_SCORES", 0)
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


def test_short_segments_and_other_number_types_go_to_torch(monkeypatch):
    monkeypatch.setattr(cpu_attention, "prefers_onednn", lambda: True)
    used: list[int] = []
    monkeypatch.setattr(SegmentAttention, "apply", lambda query, *_: used.append(len(query)) or torch.zeros_like(query))
    for length, dtype in ((20, torch.float32), (400, torch.bfloat16), (400, torch.float32)):
        query, key = (torch.randn(1, n, length, WIDTH, dtype=dtype) for n in (HEADS, KV_HEADS))
        CpuPackedAttention([length], CPU).attend(0, query, key, key, 1.0)
    assert used == [400]


def test_a_plan_attends_every_token_once_within_its_block_size():
    lengths, sequences = [500, 3000, 17], [(0, 1), (0, 2)]
    plan = Plan(PackedAttention(lengths, CPU, sequences), group=4)
    tokens = sum(lengths)
    assert torch.equal(plan.queries[plan.place], torch.arange(tokens))
    assert len(plan.padding) + tokens == len(plan.queries) < 1.1 * tokens
    shapes = list(zip(plan.num_queries, plan.num_keys, strict=True))
    assert all(4 * rows * keys <= cpu_attention.BLOCK_SCORES for rows, keys in shapes)
    assert len(shapes) > len(lengths)
