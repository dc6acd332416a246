"""Rules on problems, their sources and bands, and benchmarks; `checks.py` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deepscaler.config.models import Recipe


def benchmarks_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    section = recipe.evaluation
    if section.benchmarks_dir is not None and not section.benchmarks:
        yield (
            "evaluation.benchmarks_dir without evaluation.benchmarks: name the benchmarks to evaluate, or remove the "
            "directory"
        )
    for name in ("benchmarks", "validation_files"):
        if getattr(section, name) and recipe.data.source == "synthetic":
            yield (
                f"evaluation.{name} with data.source = 'synthetic': synthetic problems have validation sets of their "
                f"own; remove evaluation.{name}, or train on real problems"
            )


def pass_rate_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    data = recipe.data
    low, high = data.min_pass_rate, data.max_pass_rate
    if low is not None and high is not None and low > high:
        yield f"data.min_pass_rate = {low} exceeds data.max_pass_rate = {high}; swap them"
    if data.source == "synthetic" and (low is not None or high is not None):
        yield (
            "data.min_pass_rate and data.max_pass_rate with data.source = 'synthetic': generated problems have no pass "
            "rate; set data.min_operations and data.max_operations, or algorithm.accuracy_band, instead"
        )


def problems_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    data = recipe.data
    if data.min_operations > data.max_operations:
        yield (
            f"data.min_operations = {data.min_operations} exceeds data.max_operations = {data.max_operations}; swap "
            "them"
        )
    if data.source == "synthetic" and recipe.rollout.prompts_per_step > data.num_problems:
        yield (
            f"rollout.prompts_per_step = {recipe.rollout.prompts_per_step} exceeds data.num_problems = "
            f"{data.num_problems}, so no step could be filled; raise data.num_problems"
        )
    if data.source == "synthetic" and not recipe.evaluation.set_operations:
        yield (
            "evaluation.set_operations is empty and data.source = 'synthetic' has no other held-out problems; name at "
            "least one chain length"
        )


def sources_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    data = recipe.data
    names = [source.name for source in data.sources]
    if data.source == "mix" and not names:
        yield "data.source = 'mix' needs data.sources, one [[data.sources]] table per file; add them, or name one file"
    if data.source != "mix" and names:
        yield f"data.sources names {', '.join(names)}, but data.source = {data.source!r}; set data.source = 'mix'"
    for index, source in enumerate(data.sources):
        if source.name in names[:index]:
            yield (
                f"data.sources.{names.index(source.name)}.name and data.sources.{index}.name are both "
                f"{source.name!r}; stages tell sources apart by name, so rename one"
            )
        if source.path in ("synthetic", "mix"):
            yield (
                f"data.sources.{index}.path = {source.path!r} is not a file; generated problems cannot be mixed "
                "with others: set data.source = 'synthetic' without data.sources"
            )
    for index, stage in enumerate(recipe.stages):
        if stage.sources is None:
            continue
        unknown = [name for name in stage.sources if name not in names]
        if unknown or not stage.sources:
            yield (
                f"stages.{index}.sources = {list(stage.sources)} must name some of data.sources "
                f"({', '.join(names) or 'none is defined'}); remove it to draw from all"
            )


def bands_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    data = recipe.data
    for index, stage in enumerate(recipe.stages):
        key = f"stages.{index}"
        low, high = stage.min_difficulty, stage.max_difficulty
        if low is not None and high is not None and low > high:
            yield f"{key}.min_difficulty = {low:g} exceeds {key}.max_difficulty = {high:g}; swap them"
        if stage.longest_prompt is not None and stage.shortest_prompt > stage.longest_prompt:
            yield (
                f"{key}.shortest_prompt = {stage.shortest_prompt} exceeds {key}.longest_prompt = "
                f"{stage.longest_prompt}; swap them"
            )
        for name in ("shortest_prompt", "longest_prompt"):
            tokens = getattr(stage, name)
            if tokens is not None and tokens > data.max_prompt_tokens:
                yield (
                    f"{key}.{name} = {tokens} exceeds data.max_prompt_tokens = {data.max_prompt_tokens}; longer "
                    "prompts are dropped at load; raise the second or lower the first"
                )
        if data.source == "synthetic" and (
            (low is not None and low > data.max_operations) or (high is not None and high < data.min_operations)
        ):
            yield (
                f"{key}.min_difficulty and {key}.max_difficulty leave no problem: difficulty is the number of "
                f"operations, data.min_operations = {data.min_operations} to data.max_operations = "
                f"{data.max_operations}"
            )
    if recipe.stages[0].drop_solved:
        yield (
            "stages.0.drop_solved = true has no effect, because no group is sampled before the first of [[stages]]; "
            "set it in a later stage"
        )
