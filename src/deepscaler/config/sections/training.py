"""Optimizer, memory and processes of the update, checkpoints and alarms."""

from __future__ import annotations

from typing import Literal

from deepscaler.config.setting import Section, setting

LearningRateSchedule = Literal["constant", "linear", "cosine"]


class OptimizerSection(Section):
    learning_rate: float = setting(1e-6, shapes="update", doc="AdamW, the peak: reached after the warm-up", gt=0)
    beta1: float = setting(0.9, shapes="update", doc="AdamW", ge=0, lt=1)
    beta2: float = setting(0.999, shapes="update", doc="AdamW", ge=0, lt=1)
    eps: float = setting(1e-8, shapes="update", doc="AdamW", gt=0)
    weight_decay: float = setting(0.01, shapes="update", doc="AdamW", ge=0)
    warmup_updates: int = setting(0, unit="updates", shapes="update", doc="linear warm-up", ge=0)
    schedule: LearningRateSchedule = setting(
        "constant",
        shapes="update",
        added=True,
        doc="of the learning rate after the warm-up: constant, or falling to its floor as a line or a cosine",
    )
    decay_steps: int | None = setting(
        None,
        unit="steps",
        shapes="update",
        added=True,
        doc="linear and cosine: the step at which the floor is reached; absent = the last one, `deepscaler sft` only",
        gt=0,
    )
    min_learning_rate_ratio: float = setting(
        0.0, shapes="update", added=True, doc="linear and cosine: the floor, as a share of learning_rate", ge=0, lt=1
    )
    max_grad_norm: float = setting(1.0, shapes="update", doc="global-norm clipping", gt=0)
    mini_batch_prompts: int | None = setting(
        None,
        unit="prompts",
        shapes="update",
        doc="prompts per optimizer update; absent = the whole step in one update",
        gt=0,
    )
    num_iterations: int = setting(
        1,
        unit="passes",
        shapes="update",
        added=True,
        doc="passes over the completions of a step (TRL's num_iterations, verl's ppo_epochs); from 2 on off-policy, so "
        "the loss clips",
        gt=0,
    )


class TrainingSection(Section):
    tokens_per_micro_batch: int = setting(
        32768,
        unit="tokens",
        shapes="update",
        compared="rounding",
        doc="most packed tokens per forward and backward; on CPU fewer, as docs/recipes.md says, where sequences fit",
        gt=0,
    )
    logprob_chunk_tokens: int | None = setting(
        None,
        unit="tokens",
        shapes="update",
        compared="rounding",
        doc="tokens whose vocabulary logits exist at once; absent = chosen from the vocabulary",
        gt=0,
    )
    processes: int | None = setting(
        None,
        unit="processes",
        shapes="update",
        compared="rounding",
        doc="on CPU: processes that share the weights, one thread each; absent = one per core",
        gt=0,
    )
    context_parallel: int = setting(
        1,
        unit="ranks",
        shapes="update",
        compared="rounding",
        added=True,
        doc="learner ranks that share every micro-batch, each a part of its tokens (Ulysses); divides their number and "
        "that of the model's attention heads",
        gt=0,
    )
    cpu_offload: bool = setting(
        False,
        shapes="nothing",
        doc="sharded learner: weights, gradients and optimizer state wait in host memory, a layer at a time on the GPU",
    )


class CheckpointSection(Section):
    every_steps: int = setting(
        20, unit="steps", shapes="nothing", doc="steps between checkpoints; the last step is always saved", gt=0
    )
    keep: int = setting(
        2, unit="checkpoints", shapes="nothing", doc="newest ones kept; stage ends are kept as well", gt=0
    )
    async_save: bool = setting(
        False,
        shapes="nothing",
        doc="the next steps run while a copy in host memory is written; as much memory as a checkpoint has bytes",
    )


class AlarmSection(Section):
    """Thresholds of the alarms against silent failure; see docs/metrics.md."""

    window: int = setting(
        10, unit="steps", shapes="nothing", doc="steps a condition must hold before the alarm fires", gt=0
    )
    stop: bool = setting(True, shapes="nothing", doc="a fatal alarm stops the run; false only records it")
    min_effective_sample_size: float = setting(
        0.5,
        unit="share",
        shapes="nothing",
        doc="alarm below it: so much of the tokens' weight is left when trainer and sampler differ (docs/metrics.md)",
        ge=0,
        le=1,
    )
