"""Combinations of settings that are refused; settings without effect are reported in `advice.py`.

Every message names both settings and a remedy. A rule is a small generator; to add one, add a function to `_RULES`.
`origins` distinguishes settings that a person wrote from those of defaults and presets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from deepscaler.config.cluster_checks import cluster_rule, context_parallel_rule
from deepscaler.config.data_checks import bands_rule, benchmarks_rule, pass_rate_rule, problems_rule, sources_rule
from deepscaler.config.derived import longest_prompt
from deepscaler.config.models import Recipe
from deepscaler.config.optimizer_checks import passes_rule, schedule_rule
from deepscaler.config.prompt_checks import prompt_rule
from deepscaler.config.reward_checks import own_code_rule, reward_rule
from deepscaler.config.rollout_checks import engine_rule, overlap_rule, vllm_servers_rule

Origins = Mapping[str, str]
Rule = Callable[[Recipe, Origins], Iterator[str]]


def contradictions(recipe: Recipe, origins: Origins) -> list[str]:
    """One line per contradiction; empty if there is none."""
    return [line for rule in _RULES for line in rule(recipe, origins)]


def written(origins: Origins, key: str) -> str | None:
    """Where a person set the key: `--set` or a file's name; None for defaults and presets."""
    origin = origins.get(key, "default")
    return origin.removeprefix("file:") if origin == "--set" or origin.startswith("file:") else None


def _base_model(recipe: Recipe, _: Origins) -> Iterator[str]:
    if recipe.sft is not None and recipe.model.path is not None:
        yield (
            f"model.path ({recipe.model.path}) and [sft] both say where the base model comes from; "
            "remove [sft] to start from model.path, or model.path to train a base"
        )
    if recipe.sft is None and recipe.model.path is None:
        yield "neither model.path nor [sft] says where the base model comes from; set one of them"
    if recipe.model.revision is not None and recipe.model.path is None:
        yield "model.revision is set but model.path is not; set model.path, or remove the revision"


def _sft_shape(recipe: Recipe, _: Origins) -> Iterator[str]:
    sft = recipe.sft
    if sft is None:
        return
    if sft.num_heads % sft.num_kv_heads:
        yield (
            f"sft.num_heads = {sft.num_heads} is not a multiple of sft.num_kv_heads = {sft.num_kv_heads}; "
            "every key-value head serves the same number of heads, so choose a divisor"
        )
    if sft.warmup_steps >= sft.steps:
        yield (
            f"sft.warmup_steps = {sft.warmup_steps} leaves no steps of sft.steps = {sft.steps} "
            "after the warm-up; lower the first or raise the second"
        )


def _mini_batch(recipe: Recipe, _: Origins) -> Iterator[str]:
    mini, step = recipe.optimizer.mini_batch_prompts, recipe.rollout.prompts_per_step
    if mini is not None and (mini > step or step % mini):
        near = max(size for size in range(1, step + 1) if step % size == 0 and size <= max(mini, 1))
        yield (
            f"optimizer.mini_batch_prompts = {mini} does not divide rollout.prompts_per_step = {step}; every update of "
            f"a step takes the same number of prompts: choose a divisor, for example {near}"
        )


def _stages(recipe: Recipe, _: Origins) -> Iterator[str]:
    names: dict[str, int] = {}
    for index, stage in enumerate(recipe.stages):
        if stage.name in names:
            yield (
                f"stages.{names[stage.name]}.name and stages.{index}.name are both {stage.name!r}; "
                "metrics and report tell stages apart by name, so rename one"
            )
        names.setdefault(stage.name, index)
    if recipe.curriculum.kind != "schedule":
        return
    for index, stage in enumerate(recipe.stages[:-1]):
        if stage.steps is None:
            yield (
                f"stages.{index}.steps is missing and curriculum.kind = 'schedule' requires it; set "
                "it, or set curriculum.kind = 'measured'"
            )
    lengths = [stage.steps for stage in recipe.stages]
    total = sum(steps or 0 for steps in lengths)
    if None not in lengths and recipe.num_steps > total:
        last = len(recipe.stages) - 1
        yield (
            f"num_steps = {recipe.num_steps} exceeds the sum of stages.*.steps, {total}; "
            f"remove stages.{last}.steps so that the last stage continues, or set num_steps = {total}"
        )


def _reference(recipe: Recipe, _: Origins) -> Iterator[str]:
    for index, stage in enumerate(recipe.stages):
        if stage.reset_reference and recipe.algorithm.kl.coefficient == 0:
            yield (
                f"stages.{index}.reset_reference = true but algorithm.kl.coefficient = 0, so there is no reference; "
                "set the coefficient above 0, or reset_reference = false"
            )


def _lora(recipe: Recipe, origins: Origins) -> Iterator[str]:
    lora = recipe.model.lora
    if not lora.rank:
        for name in ("alpha", "targets"):
            if written(origins, f"model.lora.{name}"):
                yield f"model.lora.{name} does nothing with model.lora.rank = 0; set a rank, such as 16, or remove it"
    elif recipe.algorithm.kl.coefficient > 0 and any(stage.reset_reference for stage in recipe.stages):
        yield (
            f"stages.reset_reference with model.lora.rank = {lora.rank}: the reference is the base, the model without "
            "adapters, and holds no other weights; set reset_reference = false, or algorithm.kl.coefficient = 0"
        )


def _truncated(recipe: Recipe, origins: Origins) -> Iterator[str]:
    algorithm = recipe.algorithm
    tokens = algorithm.soft_penalty_tokens
    shortest = min(range(len(recipe.stages)), key=lambda index: recipe.stages[index].max_completion_tokens)
    budget = recipe.stages[shortest].max_completion_tokens
    if algorithm.truncated == "soft_penalty" and tokens == 0:
        yield (
            "algorithm.truncated = 'soft_penalty' needs algorithm.soft_penalty_tokens above 0; "
            f"a fifth of the budget is usual, here {max(budget // 5, 1)}"
        )
    elif algorithm.truncated == "soft_penalty" and tokens >= budget:
        brought = "" if written(origins, "algorithm.soft_penalty_tokens") else f" (from preset {recipe.preset!r})"
        yield (
            f"algorithm.soft_penalty_tokens = {tokens}{brought} covers all of "
            f"stages.{shortest}.max_completion_tokens = {budget}; a fifth is usual: set algorithm.soft_penalty_tokens "
            f"= {max(budget // 5, 1)}"
        )
    elif algorithm.truncated != "soft_penalty" and tokens > 0:
        yield (
            f"algorithm.soft_penalty_tokens = {tokens} does nothing with algorithm.truncated = "
            f"{algorithm.truncated!r}; set truncated = 'soft_penalty', or soft_penalty_tokens = 0"
        )


def _clip(recipe: Recipe, origins: Origins) -> Iterator[str]:
    if recipe.algorithm.loss != "reinforce":
        return
    for key in ("algorithm.clip_low", "algorithm.clip_high"):
        where = written(origins, key)
        if where:
            yield (
                f"{key} (set in {where}) does nothing with algorithm.loss = 'reinforce', which has no ratio to clip; "
                "remove it, or set loss = 'clipped_surrogate'"
            )


def _filtering(recipe: Recipe, _: Origins) -> Iterator[str]:
    algorithm = recipe.algorithm
    band = algorithm.accuracy_band
    if band is not None and band[0] > band[1]:
        yield f"algorithm.accuracy_band = {list(band)}: the lowest share comes first; swap them"
    if band == (0.0, 1.0):
        yield "algorithm.accuracy_band = [0, 1] drops no group; narrow the band, or remove it"
    if band is not None and algorithm.max_refills == 0:
        yield (
            "algorithm.accuracy_band with algorithm.max_refills = 0 would never sample more in place of what it drops; "
            "set max_refills above 0"
        )
    if algorithm.dynamic_sampling and algorithm.drop_zero_variance:
        yield (
            "algorithm.dynamic_sampling and algorithm.drop_zero_variance both drop groups of equal rewards, but "
            "only the first refills the step; set one of them to false"
        )
    if algorithm.dynamic_sampling and algorithm.max_refills == 0:
        yield (
            "algorithm.dynamic_sampling = true with algorithm.max_refills = 0 would never refill; "
            "set max_refills above 0, or use drop_zero_variance = true instead"
        )


def _token_budget(recipe: Recipe, _: Origins) -> Iterator[str]:
    room = recipe.training.tokens_per_micro_batch
    for index, stage in enumerate(recipe.stages):
        longest = longest_prompt(recipe, stage) + stage.max_completion_tokens
        key = "data.max_prompt_tokens" if stage.longest_prompt is None else f"stages.{index}.longest_prompt"
        if longest > room:
            yield (
                f"{key} + stages.{index}.max_completion_tokens = {longest} tokens do not fit into "
                f"training.tokens_per_micro_batch = {room}; it holds whole sequences, so set it to {longest} or more"
            )


def _sampling(recipe: Recipe, _: Origins) -> Iterator[str]:
    # Refused even with importance_cap: rollout_logprobs belong to the whole distribution (types.Rollout), so the
    # importance weight cannot see which tokens top_p or top_k removed, and no other term of the loss can either.
    rollout = recipe.rollout
    for key, value, off in (("top_p", rollout.top_p, 1.0), ("top_k", rollout.top_k, 0)):
        if value != off:
            yield (
                f"rollout.{key} = {value} samples from a truncated distribution, but algorithm.loss = "
                f"{recipe.algorithm.loss!r} uses the whole one, and no setting corrects this bias; set rollout.{key} = "
                f"{off:g} and lower rollout.temperature for a sharper one (evaluation.{key} may be set)"
            )
    if 0 < recipe.algorithm.importance_cap < 1:
        yield (
            f"algorithm.importance_cap = {recipe.algorithm.importance_cap} is below 1, the ratio of equal "
            "log-probabilities, so it would only scale down optimizer.learning_rate; set it to 0 (off) or at least 1"
        )


def _importance(recipe: Recipe, _: Origins) -> Iterator[str]:
    algorithm = recipe.algorithm
    if algorithm.importance_mask == "icepop" and algorithm.importance_cap > 0:
        yield (
            f"algorithm.importance_cap = {algorithm.importance_cap:g} with algorithm.importance_mask = 'icepop': this "
            "weighs tokens by the ratio and drops those above algorithm.importance_high, so there is nothing to cap; "
            "set importance_cap = 0, or importance_mask = 'sequence'"
        )


def _controller(recipe: Recipe, _: Origins) -> Iterator[str]:
    curriculum = recipe.curriculum
    if curriculum.kind == "measured" and curriculum.window > curriculum.min_stay:
        yield (
            f"curriculum.window = {curriculum.window} exceeds curriculum.min_stay = {curriculum.min_stay}, so a "
            "stage could end before its first window is full; raise min_stay or shorten the window"
        )


_RULES: tuple[Rule, ...] = (
    _base_model,
    _sft_shape,
    engine_rule,
    vllm_servers_rule,
    overlap_rule,
    cluster_rule,
    problems_rule,
    pass_rate_rule,
    prompt_rule,
    benchmarks_rule,
    sources_rule,
    bands_rule,
    reward_rule,
    own_code_rule,
    _mini_batch,
    schedule_rule,
    passes_rule,
    _stages,
    _reference,
    _lora,
    _truncated,
    _clip,
    _filtering,
    _token_budget,
    context_parallel_rule,
    _sampling,
    _importance,
    _controller,
)
