"""What `explain` says of the model's context beside the sequences of every stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deepscaler.config import Recipe
from deepscaler.config.context import context_of_directory
from deepscaler.config.derived import Size, longest_prompt
from deepscaler.config.explain import Explanation
from deepscaler.observability.counts import counted


def with_context(explanation: Explanation, recipe: Recipe) -> Explanation:
    """The explanation with the context of a model on this machine.

    Where a stage could exceed it by data.max_prompt_tokens, the prompts are rendered and counted, if data and
    tokenizer are here as well: what decides is the longest prompt that is kept.
    """
    context = context_of_directory(recipe.model.path) if recipe.model.path else None
    if context is None:
        return explanation
    formula = "config.json: max_position_embeddings, or factor × original"
    sizes = [Size("run", "model's context", context, "tokens", formula)]
    warnings: list[str] = []
    if _largest_possible(recipe) > context:
        counted, warnings = _counted(recipe, context)
        sizes += counted
    return replace(explanation, sizes=(*explanation.sizes, *sizes), warnings=(*explanation.warnings, *warnings))


def _largest_possible(recipe: Recipe) -> int:
    """Tokens of the longest sequence that the recipe's settings allow."""
    budgets = [longest_prompt(recipe, stage) + stage.max_completion_tokens for stage in recipe.stages]
    evaluation = recipe.evaluation
    if recipe.data.source == "synthetic" or evaluation.benchmarks or evaluation.validation_files:
        budgets.append(recipe.data.max_prompt_tokens + evaluation.max_completion_tokens)
    return max(budgets)


def _counted(recipe: Recipe, context: int) -> tuple[list[Size], list[str]]:
    """Longest prompt kept per stage, and what exceeds the context."""
    try:
        from deepscaler.loop.training_data import load_training_data, longest_sequences, make_prompts, too_long
        from deepscaler.modeling.load import load_tokenizer

        assert recipe.model.path is not None
        if not (recipe.data.source in ("synthetic", "mix") or Path(recipe.data.source).exists()):
            raise ValueError(f"data.source {recipe.data.source} is not on this machine")
        training = load_training_data(recipe)
        prompts = make_prompts(recipe, load_tokenizer(recipe.model.path), training, lambda text: None)
    except (ValueError, OSError, ImportError) as error:
        return [], [
            f"data.max_prompt_tokens and the budgets allow more than the model's context of "
            f"{counted(context, 'token')}; training "
            f"looks at the longest prompt when it starts, which could not be counted here ({error})"
        ]
    lengths = longest_sequences(recipe, prompts)
    formula = "of the problems that the stage draws from"
    sizes = [
        Size(f"stage {stage.name}", "longest prompt kept", tokens, "tokens", formula)
        for stage, tokens in zip(recipe.stages, prompts.longest, strict=True)
    ]
    return sizes, [f"training will be refused: {text}" for text in too_long(lengths, context)]
