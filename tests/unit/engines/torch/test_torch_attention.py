"""Costs of a decoding step, in counts that no busy machine changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from decode_blocks import blocks_for
from deepscaler.cpu.decode_attention import FusedDecodeAttention
from deepscaler.cpu.matmul import Matmul, OneDnnMatmul, has_onednn
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import KVCache

CPU = torch.device("cpu")
MATMULS = [Matmul()] + ([OneDnnMatmul()] if has_onednn() else [])


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


def recorded_step(model: Any, matmul: Matmul, lengths: list[int]) -> _Recorder:
    decoder = Decoder(model, matmul)
    cache = KVCache(model.config, torch.float32, CPU, 2**24, block_tokens=4)
    attention = FusedDecodeAttention(*blocks_for(cache, lengths), cache.keys, cache.values, padding=2)
    decoder.refresh(longest=max(lengths) + 1)
    positions = torch.tensor([*lengths, 0, 0])
    tokens = torch.arange(2, 2 + len(positions))
    with torch.inference_mode(), _Recorder() as record:
        decoder.logits(tokens, positions, attention.step(positions[: len(lengths)]))
    return record


@pytest.mark.perf
@pytest.mark.parametrize("matmul", MATMULS, ids=lambda x: type(x).__name__)
def test_a_decoding_step_calls_few_kernels(tiny_model: Callable[..., Any], matmul: Matmul) -> None:
    record = recorded_step(tiny_model(), matmul, [9, 3, 0, 21, 8])
    # Of each layer: rotation 4, products 5, norms 6; without oneDNN also the weights of norms and what it does inside
    # the products. Once a step: embedding, rotation tables, last norm, head, and the mask.
    assert len(record.kernels) <= (36 if matmul.copies else 54), sorted(record.kernels)


@pytest.mark.perf
def test_what_a_decoding_step_allocates_does_not_grow_with_the_context(tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    short, long = (recorded_step(model, MATMULS[-1], [n] * 5).bytes for n in (3, 400))
    assert short == long
    hidden = 7 * model.config.hidden_size * 4
    assert short <= hidden * 60 + 7 * model.config.vocab_size * 4
