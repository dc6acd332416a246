"""`deepscaler data score`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from deepscaler.cli.startup import loading, prepare
from deepscaler.config import load_recipe
from deepscaler.config.evaluation import load_evaluation
from deepscaler.config.parts import require_engine


def score_command(
    data: str,
    model: str,
    *,
    samples: int,
    to: Path,
    max_tokens: int | None,
    recipe: Path | None,
    columns: tuple[str | None, str | None],
    overrides: Sequence[str],
) -> None:
    """Write the rows with their pass rates, and say how they are distributed."""
    with loading():
        from deepscaler.loop.score import (
            check_target,
            prompt_overrides,
            samples_directory,
            score,
            scoring_recipe_defaults,
        )
    check_target(to)
    chosen = load_recipe(recipe) if recipe is not None else None
    section = chosen.data if chosen is not None else None
    prompts = [] if section is None else prompt_overrides(section, section.instruction)
    asked = load_evaluation(None, [*scoring_recipe_defaults(samples, max_tokens), *prompts, *overrides])
    require_engine(asked.engine.kind, asked.engine)
    names = (
        columns[0] or (section.prompt_field if section else "problem"),
        columns[1] or (section.answer_field if section else "answer"),
    )
    print(f"scoring {data} by {model}; samples are kept in {samples_directory(to)}", flush=True)
    lines = score(data, model, to, asked, prepare(), names)
    print("pass rates of the problems:", *lines, sep="\n")
    print(f"written to {to}; data.min_pass_rate and data.max_pass_rate choose by it")
