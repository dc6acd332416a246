"""Estimates the memory of training on CPU from the shapes of the model; `deepscaler explain` shows it.

Weights, gradients and optimizer are counted exactly. Activations are what the layers keep for the backward pass:
per token and layer 4 widths (two norms and their inputs), the rotated query, key and value, the attention's output,
and 3 widths of the MLP. docs/benchmarks.md compares the sum with measurements (benchmarks/step_memory.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepscaler.config.models import Recipe
from deepscaler.json_text import parse_json

FLOAT32 = 4
# Activations of one micro-batch and process on CPU. Larger ones are not faster there, and a constant leaves the
# rounding of a run independent of the machine.
MICRO_BATCH_BYTES = 512 * 2**20
MICRO_BATCH_TOKENS = 4096
PROCESS_BYTES = 400 * 2**20  # Python, torch and transformers, measured; shared libraries once for every process
KEPT_BYTES = 128 * 2**20  # probabilities that the head keeps for its backward pass; above, it makes them again
CHUNK_BYTES = 32 * 2**20  # logits of one chunk on CPU
# Of the memory of an update: what allocations of other sizes leave unused between them, since freed memory is kept
# (cpu.keep_freed_memory). Measured: of five steps the second reached this, and the others added 3%.
FRAGMENTATION = 0.5


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder-only transformer, under the names of its config.json."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    tie_word_embeddings: bool

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> ModelShape:
        """Raises KeyError for a config without one of the sizes."""
        heads = int(config["num_attention_heads"])
        return cls(
            hidden_size=int(config["hidden_size"]),
            intermediate_size=int(config["intermediate_size"]),
            num_hidden_layers=int(config["num_hidden_layers"]),
            num_attention_heads=heads,
            num_key_value_heads=int(config.get("num_key_value_heads") or heads),
            head_dim=int(config.get("head_dim") or int(config["hidden_size"]) // heads),
            vocab_size=int(config["vocab_size"]),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        )

    @classmethod
    def of_recipe(cls, recipe: Recipe) -> ModelShape | None:
        """Shape of the model that the recipe trains, or of its local directory; None if it is not known beforehand."""
        if recipe.sft is not None:
            s = recipe.sft
            heads = s.num_heads, s.num_kv_heads, s.head_dim
            return cls(s.hidden_size, s.mlp_size, s.num_layers, *heads, vocab_size=0, tie_word_embeddings=True)
        try:
            return cls.of_config(parse_json((Path(recipe.model.path or "") / "config.json").read_text()))
        except (OSError, ValueError, KeyError, TypeError):  # loading the model reports the error
            return None

    @property
    def num_parameters(self) -> int:
        """Number of parameters without biases and norms, which are a thousandth of it."""
        width, heads = self.hidden_size, self.num_attention_heads + self.num_key_value_heads
        layer = 2 * width * heads * self.head_dim + 3 * width * self.intermediate_size
        embeddings = self.vocab_size * width * (1 if self.tie_word_embeddings else 2)
        return self.num_hidden_layers * layer + embeddings

    @property
    def activation_bytes_per_token(self) -> int:
        """Bytes that the layers keep per token for the backward pass, in float32."""
        heads = 2 * (self.num_attention_heads + self.num_key_value_heads)
        layer = 4 * self.hidden_size + heads * self.head_dim + 3 * self.intermediate_size
        return FLOAT32 * self.num_hidden_layers * layer

    def head_bytes(self, tokens: int) -> int:
        """Of the backward pass over so many tokens: their probabilities, and two gradients of the head's weight."""
        probabilities = FLOAT32 * tokens * self.vocab_size
        kept = probabilities if probabilities <= KEPT_BYTES else 2 * CHUNK_BYTES
        return kept + 2 * FLOAT32 * self.vocab_size * self.hidden_size

    @property
    def cache_bytes_per_token(self) -> int:
        return FLOAT32 * 2 * self.num_hidden_layers * self.num_key_value_heads * self.head_dim


def cpu_micro_batch_tokens(activation_bytes_per_token: int) -> int:
    """Packed tokens of a micro-batch on CPU, where the longest sequence allows it."""
    return max(1, min(MICRO_BATCH_TOKENS, MICRO_BATCH_BYTES // activation_bytes_per_token))


@dataclass(frozen=True)
class CpuPeak:
    """Peak memory in bytes of all processes together, by purpose."""

    weights: int  # one copy in shared memory, and the reference's
    gradients: int  # one for each process
    optimizer: int  # two moments
    activations: int  # of one micro-batch for each process
    head: int  # of the same
    fragmentation: int
    cache: int  # keys and values of the sequences decoded at once
    programs: int

    @property
    def total(self) -> int:
        """Sampling and updates take turns, but freed memory stays with the processes."""
        return sum(asdict(self).values())


def cpu_peak(recipe: Recipe, shape: ModelShape, processes: int) -> CpuPeak:
    """The expected peak of a training step in float32 on CPU over the recipe's stages."""
    weights = FLOAT32 * shape.num_parameters
    stages = [
        (stage.group_size or recipe.rollout.group_size, recipe.data.max_prompt_tokens, stage.max_completion_tokens)
        for stage in recipe.stages
    ]
    sequences = max(group * recipe.rollout.prompts_per_step for group, _, _ in stages)
    longest = max(prompt + completion for _, prompt, completion in stages)
    limit = min(recipe.training.tokens_per_micro_batch, cpu_micro_batch_tokens(shape.activation_bytes_per_token))
    tokens = min(max(limit, longest), -(-sequences * longest // processes))
    activations, head = tokens * shape.activation_bytes_per_token, shape.head_bytes(tokens)
    return CpuPeak(
        weights=weights * (2 if recipe.algorithm.kl.coefficient > 0 else 1),
        gradients=weights * processes,
        optimizer=2 * weights,
        activations=processes * activations,
        head=processes * head,
        fragmentation=round(FRAGMENTATION * processes * (activations + head)),
        cache=min(sequences, recipe.rollout.max_active) * longest * shape.cache_bytes_per_token,
        programs=processes * PROCESS_BYTES,
    )
