"""The model that a run begins with, and how `deepscaler sft` makes one."""

from __future__ import annotations

from typing import Literal

from deepscaler.config.setting import Section, setting


class LoraSection(Section):
    """Low-rank adapters beside frozen weights (LoRA, arXiv:2106.09685), through PEFT."""

    rank: int = setting(0, shapes="update", added=True, doc="rank of the adapters; 0 trains all weights", ge=0)
    alpha: int = setting(32, shapes="update", added=True, doc="adapters are scaled by alpha / rank", gt=0)
    targets: tuple[str, ...] = setting(
        (), shapes="update", added=True, doc="linear layers, such as q_proj, that get one; absent = all but the head"
    )


class ModelSection(Section):
    path: str | None = setting(
        None,
        shapes="base",
        compared="content",
        doc="Hugging Face directory, hub id or GGUF file (dequantised) to start from; absent when [sft] makes the base",
    )
    revision: str | None = setting(
        None, shapes="base", compared="content", doc="hub revision (commit hash) when path is a hub id"
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", shapes="samples", doc="compute dtype; master weights and optimizer stay float32"
    )
    float32_head: bool = setting(
        False,
        shapes="samples",
        doc="bfloat16 only: logits stay in float32, in learner and engine (ScaleRL, arXiv:2510.13786)",
    )
    activation_checkpointing: bool = setting(
        False, shapes="update", compared="rounding", doc="recompute activations in the backward to save memory"
    )
    lora: LoraSection = LoraSection()


class SftSection(Section):
    """How `deepscaler sft` makes a base model from synthetic worked solutions."""

    output: str = setting(
        "runs/bases",
        shapes="base",
        compared="content",
        doc="bases are kept here, in folders named by the hash of seed and settings",
    )
    hidden_size: int = setting(128, unit="units", shapes="base", doc="model width", gt=0)
    num_layers: int = setting(2, shapes="base", doc="transformer layers", gt=0)
    num_heads: int = setting(8, shapes="base", doc="attention heads", gt=0)
    num_kv_heads: int = setting(2, shapes="base", doc="key-value heads", gt=0)
    head_dim: int = setting(32, unit="units", shapes="base", doc="width of one head", gt=0)
    mlp_size: int = setting(384, unit="units", shapes="base", doc="width of the MLP", gt=0)
    steps: int = setting(1200, unit="updates", shapes="base", doc="optimizer updates", gt=0)
    tokens_per_step: int = setting(4096, unit="tokens", shapes="base", doc="packed tokens per update", gt=0)
    muon_learning_rate: float = setting(0.01, shapes="base", doc="Muon, for matrices", gt=0)
    adamw_learning_rate: float = setting(0.005, shapes="base", doc="AdamW, for embeddings, norms and the head", gt=0)
    warmup_steps: int = setting(20, unit="updates", shapes="base", doc="linear warm-up", ge=0)
    max_solution_tokens: int = setting(
        512, unit="tokens", shapes="base", doc="longer worked solutions are truncated", gt=0
    )
    spelled_frac: float = setting(0.3, shapes="base", doc="share of steps spelled out digit by digit", ge=0, le=1)
    slip_frac: float = setting(0.05, shapes="base", doc="probability that a leapt step holds a slip", ge=0, le=1)
    repair_frac: float = setting(
        0.5, shapes="base", doc="probability that a slip is noticed and the step redone", ge=0, le=1
    )
    redo_frac: float = setting(0.15, shapes="base", doc="probability that a right step is written again", ge=0, le=1)
    filler_frac: float = setting(0.25, shapes="base", doc="probability of filler words before a step", ge=0, le=1)
    restart_frac: float = setting(0.15, shapes="base", doc="probability that the solution starts over once", ge=0, le=1)
    spiral_enter: float = setting(
        0.03, shapes="base", doc="probability per step to enter a loop of repeats", ge=0, le=1
    )
    spiral_stay: float = setting(0.93, shapes="base", doc="probability to repeat once more inside the loop", ge=0, lt=1)
