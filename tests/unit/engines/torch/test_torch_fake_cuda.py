"""Shapes, number types and operators of a CUDA device, without one: torch's fake tensors run its checks, no kernel.

They need a torch that is built with CUDA; nothing else does.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import Qwen2Config, Qwen2ForCausalLM

from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.flash_attention import FlashAttention
from deepscaler.engines.torch.paged_attention import PagedAttention
from deepscaler.modeling.attention import NAME, PackedAttention

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")
ROWS, PAIRS, MOST, SIZE = 8, 24, 4, 128


@pytest.fixture
def fake() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def fake_model() -> Any:
    """Of the recipe's head shape; bfloat16 on the GPU."""
    config = Qwen2Config(
        vocab_size=1000,
        hidden_size=1536,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=12,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            model = Qwen2ForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(torch.float32)
    model.set_attn_implementation(NAME)
    return model


@pytest.mark.parametrize("float32_head", [False, True])
@pytest.mark.parametrize("kind", [PagedAttention, FlashAttention])
def test_a_decoding_step_fits_together(fake: None, kind: Any, float32_head: bool) -> None:
    decoder = Decoder(fake_model(), float32_head=float32_head)
    decoder.refresh(500)
    by_row, by_pair = (torch.zeros(n, dtype=torch.int64, device="cuda") for n in (ROWS, PAIRS))
    parts = torch.zeros(ROWS, MOST, dtype=torch.int64, device="cuda")
    inputs: Any = SimpleNamespace(position_N=by_row, offset_N=by_row, written_N=by_row, parts_NT=parts)
    inputs.owner_M = inputs.start_M = inputs.block_M = by_pair
    shape = (PAIRS, 2, SIZE, 128) if kind is PagedAttention else (PAIRS, SIZE, 2, 128)
    blocks = [torch.zeros(shape, dtype=torch.bfloat16, device="cuda")] * 2
    cache: Any = SimpleNamespace(block_tokens=SIZE, keys=blocks, values=blocks)
    with torch.inference_mode():
        logits = decoder.logits(by_row, by_row, kind(cache, inputs))
    assert logits.shape == (ROWS, 1000) and logits.device.type == "cuda"
    assert logits.dtype == (torch.float32 if float32_head else torch.bfloat16)


def test_a_packed_row_goes_through_the_variable_length_kernel(fake: None) -> None:
    """Queries as autocast leaves them, in float32; two completions share a prompt."""
    query = torch.zeros(1, 12, 96, 128, device="cuda")
    key = torch.zeros(1, 2, 96, 128, device="cuda")
    context = PackedAttention([16, 40, 40], torch.device("cuda"), [(0, 1), (0, 2)])
    out = context.attend(0, query, key, key.to(torch.bfloat16), 0.1)
    assert out.shape == query.shape and out.dtype == torch.bfloat16
