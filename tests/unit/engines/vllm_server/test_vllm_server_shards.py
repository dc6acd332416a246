"""Weights that tensor parallelism splits over the workers of a server: joined, they have the learner's digests."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from deepscaler.engines.vllm_shared.in_server.deepscaler_vllm.held_weights import held_digests, held_weights, slots
from deepscaler.modeling.weights import tensor_digests

HIDDEN, INNER, HEADS, KV_HEADS, HEAD_SIZE, VOCABULARY, PADDED = 8, 16, 4, 2, 2, 10, 16


def full_weights() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "embed_tokens.weight": (VOCABULARY, HIDDEN),
        "q_proj.weight": (HEADS * HEAD_SIZE, HIDDEN),
        "k_proj.weight": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "v_proj.weight": (KV_HEADS * HEAD_SIZE, HIDDEN),
        "q_proj.bias": (HEADS * HEAD_SIZE,),
        "k_proj.bias": (KV_HEADS * HEAD_SIZE,),
        "v_proj.bias": (KV_HEADS * HEAD_SIZE,),
        "gate_proj.weight": (INNER, HIDDEN),
        "up_proj.weight": (INNER, HIDDEN),
        "down_proj.weight": (HIDDEN, INNER),
        "down_proj.bias": (HIDDEN,),
        "norm.weight": (HIDDEN,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


class Layer(nn.Module):
    """A module with the attributes that vLLM 0.32 gives it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, **attributes: object) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        if bias is not None:
            self.bias = nn.Parameter(bias)
        for name, value in attributes.items():
            setattr(self, name, value)


class Rank(nn.Module):
    """What rank `rank` of `size` holds of `full`, split as vllm/model_executor/layers/linear.py splits it."""

    packed_modules_mapping: ClassVar = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }
    config = SimpleNamespace(tie_word_embeddings=False)

    def __init__(self, full: dict[str, Tensor], rank: int, size: int) -> None:
        super().__init__()
        replicas = max(1, size // KV_HEADS)
        kv_size, kv_rank = size // replicas, rank // replicas
        padded = torch.cat([full["embed_tokens.weight"], torch.zeros(PADDED - VOCABULARY, HIDDEN)])
        self.embed_tokens = Layer(padded.chunk(size)[rank], org_vocab_size=VOCABULARY, tp_size=size)

        def heads(parameter: str) -> Tensor:
            own = [full[f"q_proj.{parameter}"].chunk(size)[rank]]
            return torch.cat([*own, *(full[f"{name}_proj.{parameter}"].chunk(kv_size)[kv_rank] for name in "kv")])

        kv_rows = KV_HEADS * HEAD_SIZE // kv_size
        self.qkv_proj = Layer(
            heads("weight"),
            heads("bias"),
            tp_size=size,
            total_num_heads=HEADS,
            total_num_kv_heads=KV_HEADS,
            head_size=HEAD_SIZE,
            v_head_size=HEAD_SIZE,
            num_kv_head_replicas=replicas,
            output_sizes=[HEADS * HEAD_SIZE, kv_rows * size, kv_rows * size],
            output_partition_sizes=[HEADS * HEAD_SIZE // size, kv_rows, kv_rows],
            input_size=HIDDEN,
            input_size_per_partition=HIDDEN,
        )
        self.gate_up_proj = Layer(
            torch.cat([full[f"{name}_proj.weight"].chunk(size)[rank] for name in ("gate", "up")]),
            tp_size=size,
            output_sizes=[INNER, INNER],
            output_partition_sizes=[INNER // size, INNER // size],
            input_size=HIDDEN,
            input_size_per_partition=HIDDEN,
        )
        self.down_proj = Layer(
            full["down_proj.weight"].chunk(size, dim=1)[rank].clone(),
            full["down_proj.bias"],
            tp_size=size,
            output_size=HIDDEN,
            input_size=INNER,
            input_size_per_partition=INNER // size,
        )
        self.norm = nn.LayerNorm(HIDDEN, bias=False)
        with torch.no_grad():
            self.norm.weight.copy_(full["norm.weight"])


def gather_over(ranks: list[Rank], rank: int) -> Callable[[Tensor], list[Tensor]]:
    """What the collective returns on this rank: the same parameter of all ranks."""
    names = {parameter.data_ptr(): name for name, parameter in ranks[rank].named_parameters()}
    return lambda own: [other.get_parameter(names[own.data_ptr()]).detach() for other in ranks]


@pytest.mark.parametrize("size", [2, 4])
def test_split_weights_are_joined_to_those_of_the_learner_also_where_key_heads_are_repeated(size: int) -> None:
    full = full_weights()
    ranks = [Rank(full, rank, size) for rank in range(size)]
    for rank, model in enumerate(ranks):
        found = dict(held_weights(model, gather_over(ranks, rank)))
        assert {name: tuple(weight.shape) for name, weight in found.items()} == {
            slot.name: slot.shape for slot in slots(model)
        }
        assert found.keys() == full.keys()
        for name, weight in found.items():
            assert torch.equal(weight, full[name]), name


@pytest.mark.parametrize("size", [2, 4])
def test_the_ranks_share_the_hashing_and_together_report_every_digest(size: int) -> None:
    full = full_weights()
    ranks = [Rank(full, rank, size) for rank in range(size)]
    shares = [held_digests(model, {}, gather_over(ranks, rank), share=(rank, size)) for rank, model in enumerate(ranks)]
    together = {name: digest for share in shares for name, digest in share.items()}
    assert sum(map(len, shares)) == len(together) == len(full)
    assert together == tensor_digests(full.items())


def test_one_bit_on_one_rank_changes_the_digest_of_its_tensor_alone() -> None:
    full = full_weights()
    ranks = [Rank(full, rank, 2) for rank in range(2)]
    with torch.no_grad():
        ranks[1].gate_up_proj.weight.view(torch.int32)[INNER // 2, 0] ^= 1  # the first row of its part of up_proj
    found = held_digests(ranks[0], {}, gather_over(ranks, 0))
    wanted = tensor_digests(full.items())
    assert [name for name in wanted if found[name] != wanted[name]] == ["up_proj.weight"]
