"""One decoding step by transformers' own layers, for families whose layers are not Llama's.

Norms before and after a sublayer, other activations, experts, partial or no rotation: all of it is the model's own
code; attention alone is ours, over the paged cache. More calls than `decoder.Decoder`, the same batching.

N sequences, H query heads, K key-value heads, D head width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deepscaler.cpu.matmul import Matmul
from deepscaler.engines.torch.decoder import DecodeAttention, Decoder
from deepscaler.modeling.attention import cast_to_value_dtype, forward_hidden
from deepscaler.modeling.families.registry import family_of
from deepscaler.modeling.head import float32_logits, leave_out


class ModuleDecoder(Decoder):
    """The forward pass of prompts, and of one new token per sequence, with the weights as they are now."""

    can_be_captured = False  # the layers' own code may read from the device, as experts do

    def __init__(self, model: Any, *, float32_head: bool = False) -> None:
        self._prepare(model, float32_head)
        self.matmul = Matmul()

    def refresh(self, longest: int) -> None:
        """Nothing: a step reads the model's own weights and rotations."""

    @property
    def addresses(self) -> tuple[int, ...]:
        return ()

    def logits(self, token_N: Tensor, position_N: Tensor, attention: DecodeAttention) -> Tensor:
        """Logits [N, vocabulary] after `token_N` (int64 [N]), at `position_N` (int64 [N])."""
        half = None if self._dtype == torch.float32 else self._dtype
        # The step is one row of N tokens; what each of them sees is up to the attention.
        row = forward_hidden(self._model, token_N[None], position_N[None], _Step(attention), half=half)
        return self._head_logits(row[0].to(self._dtype))

    def _head_logits(self, last: Tensor) -> Tensor:
        head = self._model.get_output_embeddings()
        logits = float32_logits(last, head.weight) if self._float32_head else head(last)
        return leave_out(logits, self._forbidden)


class _Step:
    """An attention context over the decoding cache."""

    def __init__(self, attention: DecodeAttention) -> None:
        self._attention = attention

    def attend(
        self, layer: int, query: Tensor, key: Tensor, value: Tensor, scaling: float, window: int | None = None
    ) -> Tensor:
        """query [1,H,N,D], key and value [1,K,N,D]; returns [1,H,N,D]."""
        query, key = cast_to_value_dtype(query * scaling, key, value)
        query_NHD, key_NKD, value_NKD = (x[0].transpose(0, 1).contiguous() for x in (query, key, value))
        out = self._attention.attend(layer, query_NHD, key_NKD, value_NKD, window)
        return out.view(query_NHD.shape).transpose(0, 1).unsqueeze(0)


def make_decoder(model: Any, *, float32_head: bool = False) -> Decoder:
    """`Decoder` for layers like Llama's, else `ModuleDecoder`."""
    fused = family_of(model).parts is not None and model.config.hidden_act in ("silu", "swish")
    return (Decoder if fused else ModuleDecoder)(model, float32_head=float32_head)
