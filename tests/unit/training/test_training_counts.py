"""What an update may cost, in counts that no busy machine can change: products, rows, bytes, reads of the weights."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from bare_recipe import bare_recipe
from deepscaler import cpu
from deepscaler.config.memory import MICRO_BATCH_BYTES, MICRO_BATCH_TOKENS, ModelShape
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.cpu.packed_attention import FusedAttention
from deepscaler.engines.torch import engine as torch_engine
from deepscaler.loop.publishing import load_checked
from deepscaler.modeling import weights as weights_module
from deepscaler.modeling.attention import NAME, PackedAttention, forward_hidden
from deepscaler.modeling.families.registry import FAMILIES, family_of
from deepscaler.training import logprobs
from deepscaler.training.gradients import GradientComputer
from deepscaler.training.logprobs import rows_per_chunk, token_logprobs
from deepscaler.training.packing import micro_batch_budget, pack, plan_samples
from deepscaler.types import TrainSample
from policy_learners import policy_learner

CPU = torch.device("cpu")
RECIPE = bare_recipe()
PRODUCTS = {"_linear_pointwise", "mm", "addmm", "addmm_", "bmm", "baddbmm"}

VIEWS = {
    *("view", "_unsafe_view", "t", "transpose", "permute", "detach", "unsqueeze", "squeeze", "select"),
    *("slice", "split", "split_with_sizes", "expand", "alias", "new_empty", "new_empty_strided", "empty_like"),
}


class Recorder(TorchDispatchMode):
    """Operations by name, and the shape of every tensor they made."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.count[func.overloadpacket.__name__] += 1
        if isinstance(out, torch.Tensor):
            self.shapes.append(tuple(out.shape))
        return out

    @property
    def products(self) -> int:
        return sum(self.count[name] for name in PRODUCTS)


def group(make_samples_of: Any, *, size: int = 4, length: int = 6) -> list[TrainSample]:
    """Completions of one prompt."""
    samples = make_samples_of([length] * size)
    return [replace(s, prompt_ids=samples[0].prompt_ids) for s in samples]


def model_of(num_layers: int) -> Any:
    config = Qwen2Config(
        vocab_size=40,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config).eval()
    model.set_attn_implementation(NAME)
    return cpu.accelerate(model, family_of(model).parts)


def recorded_update(num_layers: int, samples: list[TrainSample]) -> Recorder:
    model = model_of(num_layers)
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
    with Recorder() as recorder:
        computer.accumulate(samples, None, None)
    return recorder


@pytest.mark.perf
def test_a_layer_costs_21_products_and_few_other_operations(make_samples_of):
    samples = make_samples_of([5, 9, 7])
    small, large = recorded_update(2, samples), recorded_update(6, samples)
    per_layer = {name: (large.count[name] - small.count[name]) / 4 for name in large.count}
    assert sum(per_layer[name] for name in PRODUCTS & per_layer.keys()) == 21  # 7 matrices: output, input, weight
    computing = sum(n for name, n in per_layer.items() if name not in VIEWS)
    if not cpu.is_accelerated():
        assert computing <= 165
    else:  # the products and 13 others: sums of gradients, of biases and of the residual
        assert computing <= 34
        assert per_layer["select_backward"] == 0, "zeros and a copy where a view would do"


def test_attention_keeps_its_inputs_its_output_and_two_numbers_of_a_row():
    segments = PackedAttention([40, 100, 70], CPU, [(0, 1), (0, 2)]).segment_keys
    assert len(segments.keys) == 40 + 140 + 110, "each segment once, over what is before it and itself"
    tensors = [torch.randn(210, n, 8, requires_grad=True) for n in (4, 2, 2)]
    with Recorder() as recorder:
        out: Any = FusedAttention.apply(*tensors, 1.0, segments)
        out.sum().backward()
    assert max(math.prod(shape) for shape in recorder.shapes) == 210 * 4 * 8, "nothing grows with the keys"
    assert sum(n for name, n in recorder.count.items() if name not in VIEWS) <= 6


@pytest.mark.perf
def test_the_head_makes_its_logits_once_and_twice_when_memory_is_short(monkeypatch):
    chunks = 4
    for kept_bytes, products in ((2**20, chunks + 2), (0, 4 * chunks)):
        monkeypatch.setattr(logprobs, "KEPT_BYTES", kept_bytes)
        hidden, weight = torch.randn(20, 8, requires_grad=True), torch.randn(30, 8, requires_grad=True)
        with Recorder() as recorder:
            values, _ = token_logprobs(
                hidden, weight, torch.zeros(20, dtype=torch.long), temperature=1.0, chunk_tokens=5
            )
            values.sum().backward()
        assert recorder.products == products


def test_memory_of_the_head_grows_with_the_chunk_not_with_the_tokens(monkeypatch):
    monkeypatch.setattr(logprobs, "KEPT_BYTES", 0)
    hidden, weight = torch.randn(64, 4, requires_grad=True), torch.randn(30, 4, requires_grad=True)
    with Recorder() as recorder:
        values, entropies = token_logprobs(
            hidden, weight, torch.zeros(64, dtype=torch.long), temperature=0.7, chunk_tokens=5
        )
        (values + entropies).sum().backward()
    assert max(shape[0] for shape in recorder.shapes if shape and shape[-1] == 30) == 5
    for vocabulary in (1_000, 151_936):
        assert 4 * vocabulary * rows_per_chunk(vocabulary, CPU) <= 40 * 2**20


def test_no_row_is_padding_and_a_shared_prompt_stands_in_it_once(make_samples_of):
    samples = [*group(make_samples_of), *make_samples_of([3, 8], seed=9)]
    batch = pack(samples, CPU)
    distinct = {s.prompt_ids.tobytes(): len(s.prompt_ids) for s in samples}
    assert batch.num_tokens == sum(distinct.values()) + sum(len(s.completion_ids) for s in samples)


def test_the_completions_of_a_prompt_are_planned_together(make_samples_of):
    samples = [*group(make_samples_of), *[replace(s, prompt_ids=s.prompt_ids + 1) for s in group(make_samples_of)]]
    mixed = samples[::2] + samples[1::2]
    budget = 3 + 4 * 6
    plan = plan_samples(mixed, budget)
    assert len(plan) == 2
    assert all(len({mixed[i].prompt_ids.tobytes() for i in members}) == 1 for members in plan)
    assert all(pack([mixed[i] for i in members], CPU).num_tokens <= budget for members in plan)


def test_micro_batches_on_a_cpu_stay_small_but_hold_the_longest_sequence():
    small = 10_000
    assert micro_batch_budget(32768, [100, 200], CPU, small) == MICRO_BATCH_TOKENS
    assert micro_batch_budget(32768, [100, 20_000], CPU, small) == 20_000
    assert micro_batch_budget(1_000, [100, 200], CPU, small) == 1_000
    assert micro_batch_budget(32768, [100], torch.device("cuda"), small) == 32768


def test_micro_batches_on_a_cpu_keep_to_their_memory_whatever_the_model():
    large = 1_000_000
    assert micro_batch_budget(32768, [100, 200], CPU, large) * large <= MICRO_BATCH_BYTES
    assert micro_batch_budget(32768, [100, 2_000], CPU, large) == 2_000


@pytest.mark.skipif(not cpu.is_accelerated(), reason="the formula is that of the fused operations")
@pytest.mark.parametrize("family", ["qwen2", "llama"])
def test_the_activations_kept_for_the_backward_pass_are_those_of_the_formula(tiny_model, family, make_samples_of):
    """Counted by autograd itself: every tensor that a layer saves, once for each storage."""
    model = tiny_model(family)
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
    batch = pack(make_samples_of([40, 30, 50]), CPU)
    weights, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        forward_hidden(computer.model, batch.input_ids, batch.position_ids, batch.attention).sum()
    found = sum(storage.nbytes() for storage in kept.values()) / batch.num_tokens
    expected = ModelShape.of_config(model.config.to_dict()).activation_bytes_per_token
    assert expected * 0.9 < found < expected * 1.35  # beside the layers: embedding, final norm, rotary tables


@pytest.mark.parametrize("family", FAMILIES)
def test_sharing_a_prompt_changes_neither_values_nor_gradients(tiny_model, make_samples_of, family):
    samples = [*group(make_samples_of), *make_samples_of([3, 8], seed=9), *group(make_samples_of, size=2, length=1)]
    results = []
    for parts in ([samples], [[s] for s in samples]):
        model = tiny_model(family)
        computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=0.8)
        values = np.concatenate([v for part in parts for v in computer.logprobs(part)])
        for part in parts:
            computer.accumulate(part, None, None)
        results.append((torch.from_numpy(values), torch.cat([p.grad.reshape(-1) for p in model.parameters()])))
    for together, alone in zip(*results, strict=True):
        torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)


def test_publishing_reads_each_copy_of_the_weights_once(tiny_model, monkeypatch):
    reads = []

    def counting(weights: Any, dtype: Any = None) -> str:
        reads.append(1)
        return original(weights, dtype)

    original = weights_module.weights_digest
    for module in (weights_module, torch_engine):
        monkeypatch.setattr(module, "weights_digest", counting)
    learner = policy_learner(tiny_model(), RECIPE)
    for model, expected in ((learner.model, 1), (tiny_model(seed=1), 2)):  # the engine's
        reads.clear()
        engine = torch_engine.TorchEngine(model, stop_ids=frozenset({1}))
        load_checked(engine, learner.learner.publish())
        assert len(reads) == expected
