"""Every size that follows from a recipe, with its formula; `deepscaler explain` shows them.

Batch sizes are given once, globally; the numbers per rank exist only here and are never written back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import ceil

from deepscaler.config.memory import ModelShape, cpu_micro_batch_tokens, cpu_peak
from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection


@dataclass(frozen=True)
class Size:
    """One derived number. scope: `run`, `evaluation` or `stage NAME`; value: None if it is not known beforehand."""

    scope: str
    name: str
    value: int | None
    unit: str
    formula: str


def derived(recipe: Recipe, world_size: int = 1, cores: int = 1) -> list[Size]:
    """All derived sizes. world_size: number of ranks that share a step's work.

    cores: CPU cores of this machine; one process per core unless the recipe sets the number. Raises ValueError for
    ranks that training.context_parallel does not divide.
    """
    if world_size < 1:
        raise ValueError(f"world size {world_size}: expected at least 1 rank")
    if world_size > 1 and world_size % recipe.training.context_parallel:
        raise ValueError(
            f"world size {world_size} is not a multiple of training.context_parallel = "
            f"{recipe.training.context_parallel}, the ranks that share a sequence; choose a multiple of it"
        )
    sizes = [*_of_run(recipe), *memory_on_cpu(recipe, recipe.training.processes or cores)]
    for index, stage in enumerate(recipe.stages):
        sizes += _of_stage(recipe, index, stage, world_size)
    return [*sizes, *_of_evaluation(recipe)]


def mini_batches_per_step(recipe: Recipe) -> int:
    """Parts that a training step is divided into; each pass over the step makes one update of each."""
    return recipe.rollout.prompts_per_step // prompts_per_update(recipe)


def updates_per_step(recipe: Recipe) -> int:
    """Optimizer updates in one training step."""
    return mini_batches_per_step(recipe) * recipe.optimizer.num_iterations


def prompts_per_update(recipe: Recipe) -> int:
    return recipe.optimizer.mini_batch_prompts or recipe.rollout.prompts_per_step


def completions_per_update(recipe: Recipe) -> int:
    """The fewest completions that an optimizer update of any stage has."""
    return prompts_per_update(recipe) * min(group_size(recipe, stage) for stage in recipe.stages)


def group_size(recipe: Recipe, stage: StageSection) -> int:
    return stage.group_size or recipe.rollout.group_size


def longest_prompt(recipe: Recipe, stage: StageSection) -> int:
    """Tokens of the longest prompt that the stage can draw."""
    return min(recipe.data.max_prompt_tokens, stage.longest_prompt or recipe.data.max_prompt_tokens)


def scheduled_steps(recipe: Recipe, index: int) -> tuple[int, int] | None:
    """First and last step (1-based) of a stage; None if it is never reached or the controller decides."""
    if recipe.curriculum.kind != "schedule":
        return None
    before = sum(stage.steps or 0 for stage in recipe.stages[:index])
    steps = recipe.stages[index].steps
    last = recipe.num_steps if steps is None else min(before + steps, recipe.num_steps)
    return (before + 1, last) if before < last else None


def _of_run(recipe: Recipe) -> Iterator[Size]:
    prompts, updates = recipe.rollout.prompts_per_step, updates_per_step(recipe)
    yield Size("run", "prompts per update", prompts_per_update(recipe), "prompts", "mini_batch_prompts, or all")
    yield Size("run", "updates per step", updates, "updates", "prompts_per_step / prompts per update × passes")
    yield Size("run", "updates in all", updates * recipe.num_steps, "updates", "updates per step × num_steps")
    if recipe.data.source == "synthetic":
        problems = recipe.data.num_problems
        yield Size("run", "problems per epoch", problems, "problems", "num_problems")
        yield Size("run", "steps per epoch", problems // prompts, "steps", "problems // prompts_per_step")
    else:
        yield Size("run", "steps per epoch", None, "steps", "known once data.source is read")
    total = sum(source.weight for source in recipe.data.sources)
    for source in recipe.data.sources:
        share = prompts * source.weight / total
        formula = f"prompts_per_step × weight / {total:g} = {share:.1f}, where a stage draws from all sources"
        yield Size("run", f"prompts per step from {source.name}", round(share), "prompts", formula)
    chunk, batch = recipe.training.logprob_chunk_tokens, recipe.training.tokens_per_micro_batch
    yield Size(
        "run",
        "log-prob chunks",
        None if chunk is None else ceil(batch / min(chunk, batch)),
        "chunks",
        "chosen from the vocabulary" if chunk is None else "tokens_per_micro_batch / logprob_chunk_tokens",
    )
    if recipe.sft is not None:
        tokens = recipe.sft.steps * recipe.sft.tokens_per_step
        yield Size("run", "SFT tokens", tokens, "tokens", "sft.steps × sft.tokens_per_step")


def _of_stage(recipe: Recipe, index: int, stage: StageSection, world_size: int) -> Iterator[Size]:
    def size(name: str, value: int | None, unit: str, formula: str) -> Size:
        return Size(f"stage {stage.name}", name, value, unit, formula)

    span = scheduled_steps(recipe, index)
    if recipe.curriculum.kind == "schedule":
        yield size("first step", span[0] if span else None, "step", "steps of the stages before + 1")
        yield size("last step", span[1] if span else None, "step", "end of the stage, at most num_steps")
        yield size("steps", span[1] - span[0] + 1 if span else 0, "steps", "last - first + 1")
    group = group_size(recipe, stage)
    per_step = recipe.rollout.prompts_per_step * group
    per_update = prompts_per_update(recipe) * group
    longest = longest_prompt(recipe, stage) + stage.max_completion_tokens
    sampled = per_step * stage.max_completion_tokens
    yield size("group size", group, "completions", "stage, else rollout.group_size")
    yield size("sequences per step", per_step, "sequences", "prompts_per_step × group size")
    yield size("sequences per update", per_update, "sequences", "prompts per update × group size")
    prompt = "max_prompt_tokens" if stage.longest_prompt is None else "longest_prompt"
    yield size("longest sequence", longest, "tokens", f"{prompt} + max_completion_tokens")
    yield size("sampled per step, at most", sampled, "tokens", "sequences per step × max_completion_tokens")
    yield size("trained per step, at most", per_step * longest, "tokens", "sequences per step × longest sequence")
    if span:
        steps = span[1] - span[0] + 1
        yield size("sampled in all, at most", sampled * steps, "tokens", "sampled per step × steps")
    yield from _micro_batches(recipe, stage, per_update, longest, world_size)


def _micro_batches(
    recipe: Recipe, stage: StageSection, per_update: int, longest: int, world_size: int
) -> Iterator[Size]:
    # However the sequences are packed in order, a micro-batch that is not the last holds at least as many as fit at
    # the longest length, so this bounds the number from above.
    scope = f"stage {stage.name}"
    fit = recipe.training.tokens_per_micro_batch // longest
    at_least = "tokens_per_micro_batch // longest sequence"
    yield Size(scope, "sequences per micro-batch", fit, "sequences", f"at least: {at_least}")
    together = recipe.training.context_parallel if world_size > 1 else 1
    each = ceil(per_update / (world_size // together))
    bound = ceil(each / fit)
    formula = "sequences per update / sequences per micro-batch"
    if world_size == 1:
        yield Size(scope, "micro-batches per update", bound, "micro-batches", f"at most: {formula}")
        return
    per_step = ceil(recipe.rollout.prompts_per_step * group_size(recipe, stage) / world_size)
    ranks = f"{world_size} ranks"
    if together > 1:
        shard = ceil(recipe.training.tokens_per_micro_batch / together)
        yield Size(scope, "per rank: packed tokens", shard, "tokens", "tokens_per_micro_batch / context_parallel")
    per_rank = f"sequences per update / {ranks}" + (f" × {together} that share each" if together > 1 else "")
    yield Size(scope, "per rank: sampled", per_step, "sequences", f"sequences per step / {ranks}")
    yield Size(scope, "per rank: per update", each, "sequences", per_rank)
    yield Size(scope, "per rank: micro-batches", bound, "micro-batches", f"per update, at most; {ranks}")


def memory_on_cpu(recipe: Recipe, processes: int) -> list[Size]:
    """Memory of training on CPU; empty if the shape of the model is not known beforehand."""
    shape = ModelShape.of_recipe(recipe)
    if shape is None:
        return []
    peak, tokens = cpu_peak(recipe, shape, processes), cpu_micro_batch_tokens(shape.activation_bytes_per_token)
    parts = ", ".join(f"{name} {value / 2**20:,.0f}" for name, value in asdict(peak).items())
    return [
        Size("run", "micro-batch on CPU", tokens, "tokens", "activations of 512 MiB, at most 4,096; or one sequence"),
        Size(
            "run",
            "peak memory on CPU",
            round(peak.total / 2**20),
            "MiB",
            f"{processes} process{'es' if processes > 1 else ''}: {parts}",
        ),
    ]


def _of_evaluation(recipe: Recipe) -> Iterator[Size]:
    evaluation = recipe.evaluation
    scope = "evaluation"
    if recipe.data.source != "synthetic":
        yield Size(scope, "completions per problem", evaluation.num_samples, "completions", "num_samples")
        return
    sets = len(evaluation.set_operations)
    problems = sets * evaluation.num_problems
    during = sets * evaluation.during_training_problems
    yield Size(scope, "problems", problems, "problems", "sets × num_problems")
    yield Size(scope, "completions", problems * evaluation.num_samples, "completions", "problems × num_samples")
    yield Size(scope, "during training: problems", during, "problems", "sets × during_training_problems")
    yield Size(
        scope,
        "during training: completions",
        during * evaluation.during_training_samples,
        "completions",
        "problems × during_training_samples",
    )
