"""Attention over the blocks of the cache, and what a decoding step may cost, in counts that no busy machine changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Qwen2Config

from deepscaler.compiled import has_numba
from deepscaler.engines.torch.block_attention import BlockLayout
from deepscaler.engines.torch.compiled_attention import CompiledLayout
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import KVCache
from deepscaler.engines.torch.products import OneDnnProducts, Products, TorchProducts, has_packing

CPU = torch.device("cpu")
LAYOUTS: list[Any] = [BlockLayout] + ([CompiledLayout] if has_numba() else [])
PRODUCTS = [TorchProducts()] + ([OneDnnProducts()] if has_packing() else [])
needs_numba = pytest.mark.skipif(not has_numba(), reason="numba is not installed")


def blocks_for(cache: KVCache, lengths: list[int]) -> tuple[Any, Any]:
    """A table of blocks with room for one more token than `lengths`, in no order of memory."""
    counts = np.array([n // cache.block_tokens + 1 for n in lengths])
    table = np.zeros((len(lengths), counts.max()), np.int64)
    free = np.random.default_rng(0).permutation(cache.allocate(int(counts.sum())))
    for row, count in enumerate(counts):
        table[row, :count], free = free[:count], free[count:]
    return table, counts


@pytest.mark.parametrize("layout_type", LAYOUTS)
@pytest.mark.parametrize(
    ("heads", "width", "size"), [(4, 8, 4), (2, 32, 32), (6, 24, 16), (14, 16, 20), (8, 64, 64), (10, 128, 32)]
)
def test_attention_over_blocks_equals_attention_over_each_sequence(
    layout_type: Any, heads: int, width: int, size: int
) -> None:
    """Against float64, for every way in which heads and widths fall into the processor's vectors."""
    torch.manual_seed(0)
    config = Qwen2Config(hidden_size=heads * width, num_attention_heads=heads, num_key_value_heads=2)
    config.num_hidden_layers = 2
    cache = KVCache(config, torch.float32, CPU, 2**26, block_tokens=size)
    lengths = [2 * size + 1, size - 1, 0, 5 * size + 2, size]
    table, counts = blocks_for(cache, lengths)
    keys, values = torch.randn(2, 7, 6 * size, 2, width).unbind()
    for row, length in enumerate(lengths):  # as decoding would have filled the blocks
        for position in range(length):
            block, offset = table[row, position // size], position % size
            cache.keys[1][block, :, :, offset] = keys[row, position]
            cache.values[1][block, :, offset] = values[row, position]
    query = 3 * torch.randn(7, heads, width) / width**0.5
    newest = torch.tensor(lengths)
    new_key, new_value = (x[torch.arange(7), torch.tensor([*lengths, 0, 0])] for x in (keys, values))
    layout = layout_type(table, counts, cache, heads, padding=2)
    out = layout.step(newest).attend(1, query, new_key, new_value)
    assert out.shape == (7, heads * width) and not out[5:].any()
    for row, length in enumerate(lengths):
        key, value = (
            x[row, : length + 1].double().repeat_interleave(heads // 2, dim=1).transpose(0, 1) for x in (keys, values)
        )
        expected = torch.softmax(query[row].double().unsqueeze(1) @ key.transpose(1, 2), -1) @ value
        torch.testing.assert_close(out[row].double(), expected.reshape(-1), atol=2e-6, rtol=2e-6)


@needs_numba
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_numbers_that_are_not_finite_come_through(tiny_model: Callable[..., Any], bad: float) -> None:
    """The engine notices them in the logits; a compiled maximum must not swallow them."""
    cache = KVCache(tiny_model().config, torch.float32, CPU, 2**24, block_tokens=4)
    layout = CompiledLayout(*blocks_for(cache, [9, 3]), cache, heads=4, padding=0)
    query, key = torch.ones(2, 4, 8), torch.ones(2, 2, 8)
    query[1, 2, 3] = bad
    out = layout.step(torch.tensor([9, 3])).attend(0, query, key, key).view(2, 4, 8)
    assert out[0].isfinite().all() and out[1, [0, 1, 3]].isfinite().all() and not out[1, 2].isfinite().any()


class _Recorder(TorchDispatchMode):
    """The kernels called, views aside, and the bytes of what they made."""

    VIEWS = {"view", "reshape", "slice", "select", "unsqueeze", "expand", "transpose", "unbind", "to", "lift_fresh"} | {
        "detach", "resolve_conj", "resolve_neg"  # what it takes to hand a tensor to numpy
    }  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.kernels: list[str] = []
        self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.split(".")[0]
        out = function(*args, **(kwargs or {}))
        if name.strip("_") not in self.VIEWS:
            self.kernels.append(name)
            made = out if isinstance(out, tuple | list) else [out]
            self.bytes += sum(x.nbytes for x in made if isinstance(x, torch.Tensor) and not name.endswith("_"))
        return out


def recorded_step(model: Any, products: Products, layout_type: Any, lengths: list[int]) -> _Recorder:
    decoder = Decoder(model, products)
    cache = KVCache(model.config, torch.float32, CPU, 2**24, block_tokens=4)
    layout = layout_type(*blocks_for(cache, lengths), cache, decoder.heads, padding=2)
    decoder.refresh(longest=max(lengths) + 1)
    positions = torch.tensor([*lengths, 0, 0])
    tokens = torch.arange(2, 2 + len(positions))
    with torch.inference_mode(), _Recorder() as record:
        decoder.logits(tokens, positions, layout.step(positions[: len(lengths)]))
    return record


@pytest.mark.perf
@pytest.mark.parametrize("layout_type", LAYOUTS)
@pytest.mark.parametrize("products", PRODUCTS, ids=lambda p: type(p).__name__)
def test_a_decoding_step_calls_few_kernels(
    tiny_model: Callable[..., Any], products: Products, layout_type: Any
) -> None:
    record = recorded_step(tiny_model(), products, layout_type, [9, 3, 0, 21, 8])
    # Of each layer: rotation 4, products 5, norms 6, attention over several blocks 16 unless compiled; without oneDNN
    # also the weights of norms and what it does inside the products. Once a step: embedding, rotation tables,
    # last norm, head, and the mask.
    most = (36 if products.copies else 54) + (0 if layout_type is CompiledLayout else 2 * 16 + 3)
    assert len(record.kernels) <= most, sorted(record.kernels)


@pytest.mark.perf
@needs_numba
def test_what_a_decoding_step_allocates_does_not_grow_with_the_context(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    short, long = (recorded_step(model, PRODUCTS[-1], CompiledLayout, [n] * 5).bytes for n in (3, 400))
    assert short == long
    hidden = 7 * model.config.hidden_size * 4
    assert short <= hidden * 60 + 7 * model.config.vocab_size * 4


@pytest.mark.parametrize("layout_type", LAYOUTS)
def test_padding_of_attention_reads_is_less_than_a_block_per_sequence(
    tiny_model: Callable[..., Any], layout_type: Any
) -> None:
    """Skewed lengths: one sequence of 500 tokens among 31 of 20 costs the others nothing."""
    cache = KVCache(tiny_model().config, torch.float32, CPU, 2**26, block_tokens=32)
    lengths = [500] + [20] * 31
    layout = layout_type(*blocks_for(cache, lengths), cache, 4, padding=0)
    read = layout.num_blocks * cache.block_tokens
    assert read - sum(lengths) < 32 * len(lengths)
    assert read <= 0.1 * 500 * 32
    if isinstance(layout, CompiledLayout):  # it stops at the newest token of each
        assert int(layout.step(torch.tensor(lengths)).visible_M.sum()) == sum(lengths) + len(lengths)
