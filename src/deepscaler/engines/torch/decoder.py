"""One decoding step of a model: the arithmetic of transformers' modules in a third of the calls.

At small sizes the modules cost more than the arithmetic (docs/decisions/0006-decoder-and-blocks.md). Query, key and
value weights are joined into one product and rotated together. Weights are taken over from the model by `refresh`,
before every generation. With weights in half precision matmuls are in it and everything else is in float32, as in
the learner's mixed precision (`attention.forward_hidden`).

N sequences, H query heads, K key-value heads, D head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from deepscaler.cpu.matmul import Matmul, decode_matmul
from deepscaler.engines.torch.kv_cache import PrefillAttention
from deepscaler.modeling.attention import forward_hidden
from deepscaler.modeling.families.registry import family_of
from deepscaler.modeling.head import float32_logits, forbidden_ids, leave_out
from deepscaler.modeling.positions import changes_with_length, check_rotations

Weights = tuple[Tensor, Tensor | None]  # weight as packed, bias


class DecodeAttention(Protocol):
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
        """query [N,H,D], already scaled; key and value [N,K,D] of the new token. Returns [N,H*D].

        window: the last tokens that count, the new one included; None: all.
        """
        ...


@dataclass(frozen=True, slots=True)
class _Norm:
    """RMS normalisation; without a weight where that is part of the product that follows."""

    weight: Tensor | None
    root_eps: Tensor  # sqrt(width * eps), float32

    def __call__(self, x: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight, float32.

        Without weight: x / sqrt(sum(x^2) + width * eps); the factor sqrt(width) is in the product.
        """
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).hypot_(self.root_eps)
        if self.weight is None:
            return x / length
        # Rounded to the type of `x` before the weight, as transformers does.
        return (x / length.div_(x.shape[-1] ** 0.5)).to(x.dtype).float().mul_(self.weight)


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: _Norm
    query_norm: _Norm | None  # None in families without
    key_norm: _Norm | None
    joined: Weights
    out: Weights
    mlp_norm: _Norm
    gate: Weights
    up: Weights
    down: Weights
    window: int | None


class Decoder:
    """The forward pass of prompts, and of one new token per sequence.

    float32_head: logits are not rounded to the type of the weights. Raises ValueError for rotations that change with
    the length of a sequence, and for rounded ones.
    """

    can_be_captured = True  # by a CUDA graph: static shapes, and nothing read back by the host

    def __init__(self, model: Any, matmul: Matmul | None = None, *, float32_head: bool = False) -> None:
        self._prepare(model, float32_head)
        parts = family_of(model).parts
        assert parts is not None and model.config.hidden_act in ("silu", "swish"), "module_decoder.make_decoder chooses"
        self._parts = parts
        first = parts(self._base.layers[0])
        self.matmul = matmul or decode_matmul(first.query.weight)
        self._root_eps: dict[float, Tensor] = {}
        self._query_scale = torch.ones(self.heads + self.kv_heads, 1, device=first.query.weight.device)
        self._query_scale[: self.heads] = first.attention.scaling
        self._layers: list[_Layer] = []
        self._head: Weights
        self._norm: _Norm
        # float32 [2, positions, 1, D]: cosines, and sines with the sign of the first half
        self._rotation = torch.empty(2, 0, 1, self.head_dim)

    def _prepare(self, model: Any, float32_head: bool) -> None:
        """What a step and a prefill need of any family. Raises ValueError as the class."""
        if changes_with_length(model.base_model.rotary_emb):
            raise ValueError(
                f"rope_type {model.base_model.rotary_emb.rope_type!r} chooses rotations by the longest sequence of a "
                "pass; say how long the run's can be (positions.fit_positions) before sampling"
            )
        check_rotations(model)
        self._model, self._base = model, model.base_model
        self._dtype: torch.dtype = model.get_input_embeddings().weight.dtype
        self._float32_head = float32_head and self._dtype != torch.float32
        self._forbidden = forbidden_ids(model)
        self.heads: int = model.config.num_attention_heads
        self.kv_heads: int = model.config.num_key_value_heads
        self.head_dim: int = self._base.layers[0].self_attn.head_dim

    @torch.no_grad()
    def refresh(self, longest: int) -> None:
        """Take over the weights as they are now, and the rotations of positions below `longest`."""
        before = self._layers or [None] * len(self._base.layers)
        self._layers = [self._take_over(*both) for both in zip(self._base.layers, before, strict=True)]
        self._norm, factor = self._take_norm(self._base.norm)
        self._head = self._packed([self._model.get_output_embeddings()], factor)
        if longest <= self._rotation.shape[1]:
            return
        device = self._base.embed_tokens.weight.device
        positions = torch.arange(longest, device=device).unsqueeze(0)
        cos, sin = self._base.rotary_emb(torch.empty(0, device=device), positions)
        half = self.head_dim // 2
        signed = torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)
        self._rotation = torch.stack([cos[0], signed]).unsqueeze(2)

    @property
    def addresses(self) -> tuple[int, ...]:
        """Addresses of copied weights; a captured graph is valid as long as they do not change."""
        return (self._rotation.data_ptr(), *(layer.joined[0].data_ptr() for layer in self._layers))

    def _take_over(self, layer: Any, before: _Layer | None) -> _Layer:
        """The weights of a layer; those that are copies go to where they lay `before`."""
        parts = self._parts(layer)
        attention_norm, attention_factor = self._take_norm(parts.attention_norm)
        mlp_norm, mlp_factor = self._take_norm(parts.mlp_norm)
        head_norms = [
            _Norm(norm.weight, self._eps_of(norm)) if norm is not None else None
            for norm in (parts.query_norm, parts.key_norm)
        ]
        return _Layer(
            attention_norm=attention_norm,
            query_norm=head_norms[0],
            key_norm=head_norms[1],
            joined=self._packed([parts.query, parts.key, parts.value], attention_factor, before and before.joined),
            out=self._packed([parts.out]),
            mlp_norm=mlp_norm,
            gate=self._packed([parts.gate], mlp_factor),
            up=self._packed([parts.up], mlp_factor),
            down=self._packed([parts.down]),
            window=parts.window,
        )

    def _take_norm(self, module: Any) -> tuple[_Norm, Tensor | None]:
        """The normalisation, and the factor to apply to the inputs of the product that follows it."""
        if not self.matmul.copies:
            return _Norm(module.weight, self._eps_of(module)), None
        return _Norm(None, self._eps_of(module)), module.weight * module.weight.numel() ** 0.5

    def _eps_of(self, module: Any) -> Tensor:
        """sqrt(width * eps), made once: a captured graph reads it at its address."""
        value = (module.weight.numel() * module.variance_epsilon) ** 0.5
        if value not in self._root_eps:
            self._root_eps[value] = torch.tensor(value, dtype=torch.float32, device=module.weight.device)
        return self._root_eps[value]

    def _packed(self, linears: list[Any], factor: Tensor | None = None, before: Weights | None = None) -> Weights:
        """One product for several with the same input, which is multiplied by `factor` first."""
        if len(linears) == 1:
            weight, bias = linears[0].weight, linears[0].bias
        else:
            weights, biases = before if before and not self.matmul.copies else (None, None)
            weight = torch.cat([x.weight for x in linears], out=weights)
            bias = None if linears[0].bias is None else torch.cat([x.bias for x in linears], out=biases)
        return self.matmul.pack(weight if factor is None else weight * factor), bias

    def prompt_logits(self, ids: Tensor, lengths: Sequence[int], attention: PrefillAttention) -> Tensor:
        """Logits [P,vocabulary] after each of P right-padded prompts, int64 [P,T]; `attention` keeps what it sees."""
        positions = torch.arange(ids.shape[1], device=ids.device).expand(len(ids), -1)
        half = None if self._dtype == torch.float32 else self._dtype
        hidden = forward_hidden(self._model, ids, positions, attention, half=half)
        last = hidden[torch.arange(len(ids)), torch.tensor(lengths) - 1].to(self._dtype)
        head = self._model.get_output_embeddings()
        logits = float32_logits(last, head.weight) if self._float32_head else head(last)
        return leave_out(logits, self._forbidden)

    def logits(self, token_N: Tensor, position_N: Tensor, attention: DecodeAttention) -> Tensor:
        """Logits [N, vocabulary] after `token_N` (int64 [N]), at `position_N` (int64 [N])."""
        hidden = F.embedding(token_N, self._base.embed_tokens.weight).float()
        cos, sin = self._rotation.index_select(1, position_N) * self._query_scale  # [N,H+K,D]
        for index, layer in enumerate(self._layers):
            query, key, value = self._heads(layer, layer.attention_norm(hidden).to(self._dtype), cos, sin)
            seen = attention.attend(index, query, key, value, layer.window)
            hidden = self.matmul.linear_add(seen, *layer.out, hidden)
            normed = layer.mlp_norm(hidden).to(self._dtype)
            gated = self.matmul.linear_mul(normed, *layer.up, self.matmul.linear_silu(normed, *layer.gate))
            hidden = self.matmul.linear_add(gated, *layer.down, hidden)
        last = self._norm(hidden).to(self._dtype)
        logits = float32_logits(last, self._head[0]) if self._float32_head else self.matmul.linear(last, *self._head)
        return leave_out(logits, self._forbidden)

    def _heads(self, layer: _Layer, normed: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated and scaled query [N,H,D], rotated key [N,K,D], and value [N,K,D]."""
        joined = self.matmul.linear(normed, *layer.joined)
        heads = joined.view(len(normed), self.heads + 2 * self.kv_heads, self.head_dim)
        rotated, value = heads[:, : -self.kv_heads], heads[:, -self.kv_heads :]
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = rotated[:, : self.heads], rotated[:, self.heads :]
            rotated = torch.cat([layer.query_norm(query), layer.key_norm(key)], dim=1)
        # Rolling by half the head width swaps its halves; `sin` carries the sign of the first.
        rotated = torch.addcmul(rotated * cos, rotated.roll(self.head_dim // 2, -1), sin).to(self._dtype)
        return rotated[:, : self.heads], rotated[:, self.heads :], value
