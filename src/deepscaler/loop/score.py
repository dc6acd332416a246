"""Pass rates of problems under a model, as columns of their file (`deepscaler data score`)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deepscaler.config.evaluation import EvalRecipe
from deepscaler.config.sections.prompt import PromptSettings
from deepscaler.data.pass_rates import RATE, histogram, pass_rate_columns
from deepscaler.data.sources.load import load_problems, locate
from deepscaler.data.sources.readers import read_rows
from deepscaler.evaluation.datasets import announced, describe
from deepscaler.evaluation.samples import read_samples
from deepscaler.loop.evaluate import Job, evaluate_model
from deepscaler.loop.progress import Progress
from deepscaler.observability.files import write_atomically
from deepscaler.types import Outcome, Problem

NAME = "problems"
FORMATS = (".jsonl", ".json", ".parquet")


def samples_directory(to: Path) -> Path:
    """Where the samples are kept, so that an interrupted command goes on."""
    return to.with_name(f"{to.name}.samples")


def score(
    source: str, model: str, to: Path, recipe: EvalRecipe, progress: Progress, columns: tuple[str, str]
) -> list[str]:
    """Write the rows of `source` with their pass rates to `to`; returns the distribution, one line a band.

    columns: of problem and answer. The samples are those of an evaluation in `samples_directory`: graded, stored one by
    one, and not made again. Raises ValueError for data, a model or a file that cannot be used.
    """
    check_target(to)
    problems = load_problems(
        source, prompt_field=columns[0], answer_field=columns[1], instruction=recipe.suite.instruction
    )
    datasets = describe({NAME: problems})
    progress.message(announced(datasets, recipe))
    out = samples_directory(to)
    evaluate_model(model, Job(recipe, datasets, out, progress))
    found = _rates(out, problems)
    rows = [row for file in locate(source) for row in read_rows(file.path)]
    assert len(rows) == len(problems)
    write_rows(to, [{**dict(_fields(row)), **rate} for row, rate in zip(rows, found, strict=True)])
    return histogram([float(str(rate[RATE])) for rate in found if rate[RATE] is not None])


def check_target(to: Path) -> None:
    """Raises ValueError for a file of a format that is not written, or in a folder that does not exist."""
    if to.suffix.lower() not in FORMATS:
        raise ValueError(f"--to {to}: its name ends in none of {', '.join(FORMATS)}, so its format is not known")
    if not to.parent.is_dir():
        raise ValueError(f"--to {to}: there is no directory {to.parent}; make it first")


def scoring_recipe_defaults(num_samples: int, max_tokens: int | None) -> list[str]:
    """Overrides of an evaluation: sampled as in training, the whole distribution at temperature 1."""
    budget = [] if max_tokens is None else [f"sampling.max_completion_tokens={max_tokens}"]
    return ["sampling.temperature=1.0", "sampling.top_p=1.0", f"sampling.num_samples={num_samples}", *budget]


def prompt_overrides(data: PromptSettings, instruction: str) -> list[str]:
    """Prompts as a training recipe makes them."""
    settings: dict[str, object] = {"instruction": instruction, **data.model_dump(include={"system_prompt"})}
    settings |= {"prompt_template": data.prompt_template} if data.prompt_template else {}
    switches = [f"suite.template.{name}={json.dumps(value)}" for name, value in data.template.items()]
    return [*(f"suite.{name}={json.dumps(value)}" for name, value in settings.items()), *switches]


def _rates(directory: Path, problems: Sequence[Problem]) -> list[dict[str, object]]:
    """Per problem the columns of its graded samples."""
    table = read_samples(directory).select(["problem_id", "outcome", "reward"])
    graded: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for row in table.to_pylist():
        if Outcome(row["outcome"]).graded:
            graded[row["problem_id"]] += 1
            right[row["problem_id"]] += row["reward"] > 0
    return [pass_rate_columns(right[problem.id], graded[problem.id]) for problem in problems]


def _fields(row: object) -> Mapping[str, object]:
    assert isinstance(row, Mapping)  # else it were no problem
    return {str(name): value for name, value in row.items()}


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """A file that is whole or absent, in the format of its name."""

    def write(temporary: Path) -> None:
        if path.suffix.lower() == ".parquet":
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), temporary, compression="zstd")
        elif path.suffix.lower() == ".json":
            temporary.write_text(json.dumps(list(rows), ensure_ascii=False, indent=1) + "\n")
        else:
            temporary.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))

    write_atomically(path, write)
