"""The recipe as frozen models: one TOML file, one experiment.

Every field carries its unit and meaning; defaults are values we would defend. Batch sizes are given once,
globally. Nothing edits a recipe after loading: a bad combination is refused in `checks.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


def setting(default: object = ..., *, unit: str = "", doc: str, **bounds: object):
    """A pydantic field that also knows its unit, for `deepscaler explain`."""
    return Field(default, description=doc, json_schema_extra={"unit": unit}, **bounds)  # type: ignore[arg-type]


TokenId = Annotated[int, Field(ge=0)]
StopString = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelSection(Section):
    path: str | None = setting(
        None, doc="Hugging Face directory or hub id to start from; absent when [sft] makes the base"
    )
    revision: str | None = setting(None, doc="hub revision (commit hash) when path is a hub id")
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", doc="compute dtype; master weights and optimizer stay float32"
    )
    float32_head: bool = setting(
        False, doc="bfloat16 only: logits stay in float32, in learner and engine (ScaleRL, arXiv:2510.13786)"
    )
    activation_checkpointing: bool = setting(False, doc="recompute activations in the backward to save memory")


class SftSection(Section):
    """How `deepscaler sft` makes a base model from synthetic worked solutions."""

    output: str = setting("runs/bases", doc="bases are kept here, in folders named by the hash of seed and settings")
    hidden_size: int = setting(128, unit="units", doc="model width", gt=0)
    num_layers: int = setting(2, doc="transformer layers", gt=0)
    num_heads: int = setting(8, doc="attention heads", gt=0)
    num_kv_heads: int = setting(2, doc="key-value heads", gt=0)
    head_dim: int = setting(32, unit="units", doc="width of one head", gt=0)
    mlp_size: int = setting(384, unit="units", doc="width of the MLP", gt=0)
    steps: int = setting(1200, unit="updates", doc="optimizer updates", gt=0)
    tokens_per_step: int = setting(4096, unit="tokens", doc="packed tokens per update", gt=0)
    muon_learning_rate: float = setting(0.01, doc="Muon, for matrices", gt=0)
    adamw_learning_rate: float = setting(0.005, doc="AdamW, for embeddings, norms and the head", gt=0)
    warmup_steps: int = setting(20, unit="updates", doc="linear warm-up", ge=0)
    max_solution_tokens: int = setting(512, unit="tokens", doc="longer worked solutions are cut", gt=0)
    spelled_frac: float = setting(0.3, doc="share of steps spelled out digit by digit", ge=0, le=1)
    slip_frac: float = setting(0.05, doc="probability that a leapt step holds a slip", ge=0, le=1)
    repair_frac: float = setting(0.5, doc="probability that a slip is noticed and the step redone", ge=0, le=1)
    redo_frac: float = setting(0.15, doc="probability that a right step is written again", ge=0, le=1)
    filler_frac: float = setting(0.25, doc="probability of filler words before a step", ge=0, le=1)
    restart_frac: float = setting(0.15, doc="probability that the solution starts over once", ge=0, le=1)
    spiral_enter: float = setting(0.03, doc="probability per step to enter a loop of repeats", ge=0, le=1)
    spiral_stay: float = setting(0.93, doc="probability to repeat once more inside the loop", ge=0, lt=1)


class SourceSection(Section):
    """One source of a mixture."""

    name: str = setting(doc="what stages.N.sources and messages call it")
    path: str = setting(doc="a .json, .jsonl or .parquet file of problems, or a hub dataset")
    weight: float = setting(1.0, doc="its share of the prompts, relative to the other sources of the stage", gt=0)
    prompt_field: str = setting("problem", doc="column that holds the problem")
    answer_field: str = setting("answer", doc="column that holds the answer or list of answers")


class DataSection(Section):
    source: str = setting(
        doc="`synthetic`, a .json, .jsonl or .parquet file of problems, a hub dataset, or `mix` of data.sources"
    )
    sources: tuple[SourceSection, ...] = setting((), doc="with source = 'mix': files that take turns by weight")
    prompt_field: str = setting("problem", doc="column that holds the problem")
    answer_field: str = setting("answer", doc="column that holds the answer or list of answers")
    instruction: str = setting(
        "Let's think step by step and output the final answer within \\boxed{}.",
        doc="appended to every problem after a space (docs/recipe.md)",
    )
    max_prompt_tokens: int = setting(1024, unit="tokens", doc="longer prompts are dropped at load and counted", gt=0)
    raw_sources: tuple[str, ...] = setting(
        (), doc="`data prepare` only: files and hub datasets to make the training set of; empty = source"
    )
    benchmarks: str | None = setting(None, doc="`data prepare` only: directory of the benchmarks to keep out")
    validation_frac: float = setting(0.0, doc="`data prepare` only: share of rows kept out of training", ge=0, lt=1)
    num_problems: int = setting(20000, unit="problems", doc="synthetic only: size of the training set", gt=0)
    min_operations: int = setting(2, doc="synthetic only: shortest chain", ge=1)
    max_operations: int = setting(9, doc="synthetic only: longest chain", ge=1)


class RolloutSection(Section):
    engine: Literal["torch", "vllm"] = setting(
        "torch", doc="torch = this program's own; vllm, where it is installed, has a copy of the weights"
    )
    prompts_per_step: int = setting(unit="prompts", doc="groups per step", gt=0)
    group_size: int = setting(unit="completions", doc="completions per prompt; a stage may override it", gt=1)
    temperature: float = setting(1.0, doc="sampling temperature; the loss divides logits by the same", gt=0)
    top_p: float = setting(1.0, doc="nucleus; 1 = off", gt=0, le=1)
    top_k: int = setting(0, doc="0 = off", ge=0)
    max_active: int = setting(256, unit="sequences", doc="sequences decoded at once (cache slots)", gt=0)
    stop_token_ids: tuple[TokenId, ...] = setting(
        (), doc="tokens that end a completion, beside EOS and the chat template's end of a turn; in evaluations as well"
    )
    stop: tuple[StopString, ...] = setting(
        (), doc="texts that end a completion and are cut from what is graded; in evaluations as well"
    )


class ClusterSection(Section):
    """Where a run's workers are."""

    kind: Literal["local"] = setting("local", doc="local = this machine")


class StageSection(Section):
    """One length of the curriculum."""

    name: str = setting(doc="shown in logs and the report")
    max_completion_tokens: int = setting(unit="tokens", doc="completion budget", gt=0)
    steps: int | None = setting(
        None,
        unit="steps",
        doc="length of the stage; the last one may leave it out and runs to num_steps",
        gt=0,
    )
    group_size: int | None = setting(None, unit="completions", doc="overrides rollout.group_size", gt=1)
    reset_optimizer: bool = setting(False, doc="start the stage with a new optimizer")
    reset_reference: bool = setting(False, doc="KL reference := weights at the start of the stage")
    reshuffle: bool = setting(False, doc="start the stage with a fresh shuffle of the data")
    sources: tuple[str, ...] | None = setting(None, doc="names of the data.sources to draw from; absent = all")
    min_difficulty: float | None = setting(None, doc="only problems at least so difficult; absent = all")
    max_difficulty: float | None = setting(None, doc="only problems at most so difficult; absent = all")
    shortest_prompt: int = setting(0, unit="tokens", doc="only prompts at least so long", ge=0)
    longest_prompt: int | None = setting(
        None, unit="tokens", doc="only prompts at most so long; absent = up to data.max_prompt_tokens", gt=0
    )
    drop_solved: bool = setting(False, doc="leave out problems whose latest group was all right when the stage begins")


class CurriculumSection(Section):
    kind: Literal["schedule", "measured"] = setting(
        "schedule", doc="fixed steps per stage, or a controller that watches the run"
    )
    window: int = setting(20, unit="steps", doc="measured: steps averaged for each figure", gt=1)
    min_stay: int = setting(40, unit="steps", doc="measured: shortest stay in a stage", gt=0)
    truncation_low: float = setting(0.05, doc="measured: truncated share that counts as settled", ge=0, le=1)
    truncation_rise: float = setting(
        0.015, doc="measured: rise above its lowest that calls for a longer budget", gt=0, le=1
    )
    reward_slope: float = setting(
        0.0005, unit="reward/step", doc="measured: below this the reward counts as flat", ge=0
    )
    patience: int = setting(5, unit="steps", doc="measured: steps in a row the signal must hold", gt=0)
    skip_below_truncation: float = setting(
        0.0,
        doc="measured: a stage whose first window truncates less than this is skipped; 0 = never",
        ge=0,
        le=1,
    )
    refuse_above_truncation: float = setting(
        0.0,
        doc="measured: a stage whose first window truncates more than this is left at once; 0 = never",
        ge=0,
        le=1,
    )


class KlSection(Section):
    estimator: Literal["k1", "k2", "k3"] = setting("k3", doc="Schulman's estimator used in the loss")
    coefficient: float = setting(0.0, doc="added to the loss with a plus sign; 0 = off and no reference kept", ge=0)


class AlgorithmSection(Section):
    advantage: Literal["group_normalized", "mean_baseline", "leave_one_out", "batch_normalized"] = setting(
        "group_normalized", doc="how rewards become advantages"
    )
    reduction: Literal["token_mean", "sequence_mean", "prompt_mean", "fixed_length"] = setting(
        "token_mean", doc="how token losses add up over the whole optimizer step"
    )
    loss: Literal["clipped_surrogate", "cispo", "gspo", "reinforce"] = setting(
        "clipped_surrogate", doc="policy-gradient loss"
    )
    clip_low: float = setting(0.2, doc="lower clip distance of the ratio", ge=0)
    clip_high: float = setting(0.2, doc="upper clip distance of the ratio", ge=0)
    kl: KlSection = KlSection()
    entropy_coefficient: float = setting(0.0, doc="entropy bonus, subtracted from the loss", ge=0)
    truncated: Literal["train", "mask", "soft_penalty"] = setting(
        "train", doc="completions cut at the budget: train on reward 0, mask, or a soft overlong penalty"
    )
    soft_penalty_tokens: int = setting(
        0,
        unit="tokens",
        doc="soft_penalty: reward falls linearly from 0 to -1 over the last so many tokens",
        ge=0,
    )
    importance_cap: float = setting(0.0, doc="cap of the truncated importance weight trainer/sampler; 0 = off", ge=0)
    dynamic_sampling: bool = setting(
        False, doc="drop groups whose rewards are all equal and sample more until the step is full"
    )
    max_refills: int = setting(3, unit="rounds", doc="dynamic_sampling: rounds before going on with fewer", ge=0)
    drop_zero_variance: bool = setting(
        False, doc="drop groups whose rewards are all equal, without refilling (ScaleRL)"
    )


class OptimizerSection(Section):
    learning_rate: float = setting(1e-6, doc="AdamW, constant after warm-up", gt=0)
    beta1: float = setting(0.9, doc="AdamW", ge=0, lt=1)
    beta2: float = setting(0.999, doc="AdamW", ge=0, lt=1)
    eps: float = setting(1e-8, doc="AdamW", gt=0)
    weight_decay: float = setting(0.01, doc="AdamW", ge=0)
    warmup_updates: int = setting(0, unit="updates", doc="linear warm-up", ge=0)
    max_grad_norm: float = setting(1.0, doc="global-norm clipping", gt=0)
    mini_batch_prompts: int | None = setting(
        None, unit="prompts", doc="prompts per optimizer update; absent = the whole step in one update", gt=0
    )


class TrainingSection(Section):
    tokens_per_micro_batch: int = setting(
        32768,
        unit="tokens",
        doc="most packed tokens per forward and backward; on CPU fewer, as docs/recipes.md says, where sequences fit",
        gt=0,
    )
    logprob_chunk_tokens: int | None = setting(
        None,
        unit="tokens",
        doc="tokens whose vocabulary logits exist at once; absent = chosen from the vocabulary",
        gt=0,
    )
    processes: int | None = setting(
        None,
        unit="processes",
        doc="on CPU: processes that share the weights, one thread each; absent = one per core",
        gt=0,
    )


GraderProfile = Literal["deepscaler", "string"]  # the names of rewards.registry, which this layer may not import


class GraderSection(Section):
    profile: GraderProfile = setting(
        "deepscaler", doc="mathematical equality, or equality of lightly normalised text (JustRL, DAPO)"
    )
    workers: int = setting(1, unit="processes", doc="grading processes", gt=0)
    cpu_s: float = setting(1.0, unit="s", doc="processor time per completion", gt=0)
    wall_s: float = setting(
        10.0, unit="s", doc="waiting time per completion, for a process that gets no processor", gt=0
    )
    memory_mib: int = setting(1024, unit="MiB", doc="address-space limit per grading process", gt=0)


class EvaluationSection(Section):
    num_samples: int = setting(16, unit="completions", doc="samples per problem", gt=0)
    temperature: float = setting(0.6, doc="sampling temperature", gt=0)
    top_p: float = setting(0.95, doc="nucleus", gt=0, le=1)
    top_k: int = setting(0, doc="0 = off", ge=0)
    max_completion_tokens: int = setting(32768, unit="tokens", doc="completion budget", gt=0)
    every_steps: int = setting(0, unit="steps", doc="evaluate inside training so often; 0 = only at stage ends", ge=0)
    num_problems: int = setting(100, unit="problems", doc="synthetic only: problems per held-out set", gt=0)
    set_operations: tuple[int, ...] = setting(
        (3, 4, 5, 7, 9), doc="synthetic only: chain length of each held-out set, rising difficulty"
    )
    during_training_problems: int = setting(
        32, unit="problems", doc="problems per set for evaluations inside training; never test problems", gt=0
    )
    during_training_samples: int = setting(4, unit="completions", doc="samples per problem inside training", gt=0)
    benchmarks: tuple[str, ...] = setting(
        (), doc="benchmarks evaluated inside training, a subset of each; no checkpoint is chosen by them"
    )
    benchmarks_dir: str | None = setting(None, doc="directory of the benchmark files; absent = from the hub")
    validation_files: tuple[str, ...] = setting(
        (), doc="files of held-out problems evaluated inside training, such as the validation.parquet of data prepare"
    )


class CheckpointSection(Section):
    every_steps: int = setting(20, unit="steps", doc="save so often; the last step is always saved", gt=0)
    keep: int = setting(2, unit="checkpoints", doc="newest ones kept; stage ends are kept as well", gt=0)


class AlarmSection(Section):
    """Thresholds of the alarms against silent failure; see docs/metrics.md."""

    window: int = setting(10, unit="steps", doc="steps a condition must hold before the alarm fires", gt=0)
    stop: bool = setting(True, doc="a fatal alarm stops the run; false only records it")


class Recipe(Section):
    name: str = setting(doc="name of the experiment")
    description: str = setting("", doc="one line about it")
    seed: int = setting(1, doc="every draw of the run is a function of it", ge=0)
    preset: str = setting("deepscaler", doc="named set of [algorithm] values; see `deepscaler presets`")
    num_steps: int = setting(unit="steps", doc="the run ends after so many steps, all stages together", gt=0)
    model: ModelSection = ModelSection()
    sft: SftSection | None = setting(None, doc="how to make the base model; absent when model.path names one")
    data: DataSection
    rollout: RolloutSection
    stages: tuple[StageSection, ...] = Field(min_length=1)
    curriculum: CurriculumSection = CurriculumSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()
    cluster: ClusterSection = ClusterSection()
    grader: GraderSection = GraderSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    alarms: AlarmSection = AlarmSection()
