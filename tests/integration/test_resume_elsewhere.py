"""`--from RUN[@STEP]`: a new directory begins with another run's checkpoint, and other settings from there on."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from deepscaler.cli.run import train_command
from deepscaler.config import Recipe, load_recipe
from deepscaler.loop.build import open_run
from deepscaler.loop.loop import train
from deepscaler.loop.progress import Progress
from deepscaler.loop.resume_check import Origin, parse_origin
from deepscaler.observability.run_directory import read_metrics
from deepscaler.training.checkpoint import steps_in
from tiny_run import deepscaler, write_model, write_recipe

NUM_STEPS = 5


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe and a run of it to its end: stage `short` to step 3, `long` to step 5, every checkpoint kept."""
    directory = tmp_path_factory.mktemp("origin")
    write_recipe(directory, num_steps=NUM_STEPS, processes=1, model=write_model(directory / "model"))
    go(load(directory), directory / "run")
    return directory


def load(directory: Path, *overrides: str) -> Recipe:
    return load_recipe(directory / "tiny.toml", ["checkpoint.keep=9", *overrides])


def go(recipe: Recipe, path: Path, origin: Origin | None = None) -> tuple[str, str]:
    """(digest of the weights at the end, what was said)."""
    out = StringIO()
    with open_run(recipe, Path(recipe.model.path or ""), path, Progress(out, terminal=False), origin) as run:
        train(run)
        return run.weights.digest("float32"), out.getvalue()


def sampled(path: Path, step: int) -> list[str]:
    table = pq.read_table(path / "rollouts" / f"step-{step:06d}.parquet").to_pylist()
    return list(dict.fromkeys(row["problem_id"] for row in table))


def steps(path: Path) -> list[dict[str, Any]]:
    rows = [row for row in read_metrics(path / "metrics.jsonl") if row["kind"] == "step"]
    return [
        {
            k: v
            for k, v in row.items()
            if not k.endswith("_s") and k not in ("time", "grader_cached_frac", "driver_memory_mib")
        }
        for row in rows
    ]


@pytest.mark.parametrize("step", [0, 2, 3, 4])
def test_with_the_same_settings_and_the_optimizer_it_ends_as_if_it_had_never_stopped(
    made: Path, tmp_path: Path, step: int
) -> None:
    """Weights, optimizer, reference, stage, data position and draws: whatever were missing would show in a bit."""
    straight, _ = go(load(made), made / "run")
    digest, said = go(load(made), tmp_path / "new", Origin(made / "run", step, keep_optimizer=True))
    assert digest == straight
    assert steps(tmp_path / "new") == steps(made / "run")[step:]
    assert f"went on from step {step} of {made / 'run'}" in said and "its optimizer kept" in said
    assert steps_in(tmp_path / "new" / "checkpoints")[0] == step
    assert json.loads((tmp_path / "new" / "run.json").read_text())["origin"]["step"] == step


def test_another_learning_rate_from_a_checkpoint_on(made: Path, tmp_path: Path) -> None:
    recipe = load(made, "optimizer.learning_rate=1e-2", "optimizer.warmup_updates=4")
    digest, _ = go(recipe, tmp_path / "new", Origin(made / "run", 3))
    assert digest != go(load(made), made / "run")[0]
    found = steps(tmp_path / "new")
    assert [(row["step"], row["stage"], row["learning_rate"]) for row in found] == [
        (4, "long", 5e-3),
        (5, "long", 1e-2),
    ]
    assert [sampled(tmp_path / "new", n) for n in (4, 5)] == [sampled(made / "run", n) for n in (4, 5)]
    lines = [row for row in read_metrics(tmp_path / "new" / "metrics.jsonl") if row["kind"] == "evaluation"]
    assert [row["step"] for row in lines] == [3, 5]


def test_the_newest_checkpoint_and_another_length_of_the_stage(made: Path, tmp_path: Path) -> None:
    recipe = load(made, "stages.0.steps=4", "num_steps=6", "grader.wall_s=20.0")
    go(recipe, tmp_path / "early", Origin(made / "run", 2))
    assert [(row["step"], row["stage"]) for row in steps(tmp_path / "early")] == [
        *((3, "short"), (4, "short")),
        *((5, "long"), (6, "long")),
    ]
    _, said = go(load(made, "num_steps=6", "seed=8"), tmp_path / "newest", Origin(made / "run"))
    assert "went on from step 5" in said and [row["step"] for row in steps(tmp_path / "newest")] == [6]


def test_other_problems_begin_anew_with_a_note(made: Path, tmp_path: Path) -> None:
    _, said = go(load(made, "data.num_problems=30"), tmp_path / "new", Origin(made / "run", 4))
    assert "other training problems than in that run, so their order starts again" in said
    assert [row["step"] for row in steps(tmp_path / "new")] == [5]


def test_stopped_it_goes_on_with_the_same_command_and_with_no_other_origin(made: Path, tmp_path: Path) -> None:
    origin, path = Origin(made / "run", 2), tmp_path / "new"
    recipe = load(made, "optimizer.learning_rate=1e-2")
    straight, _ = go(recipe, tmp_path / "straight", origin)
    go(load(made, "optimizer.learning_rate=1e-2", "num_steps=3"), path, origin)
    digest, said = go(recipe, path, origin)
    assert digest == straight and "continuing after step 3" in said
    assert steps_in(path / "checkpoints") == [2, 3, 4, 5]
    with pytest.raises(ValueError, match=r"already has steps of its own, started from step 2 of"):
        go(recipe, path, Origin(made / "run", 1))
    with pytest.raises(ValueError, match=r"already has steps of its own, started from the base model"):
        go(load(made), made / "run", Origin(made / "run", 1))


def test_the_first_checkpoint_of_the_directory_stays(made: Path, tmp_path: Path) -> None:
    go(load(made, "checkpoint.keep=1"), tmp_path / "new", Origin(made / "run", 2))
    assert steps_in(tmp_path / "new" / "checkpoints") == [2, 3, 5]


@pytest.mark.parametrize(
    ("overrides", "step", "words"),
    [
        (["num_steps=4"], 4, r"num_steps = 4 is not beyond step 4 of .*raise num_steps"),
        (["stages.1.name=other"], 4, r"was in stage 'long', which the recipe does not have \(short, other\)"),
        ([], 9, r"no checkpoint of step 9; steps with one: 0, 1, 2, 3, 4, 5"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_directory_is_made(
    made: Path, tmp_path: Path, overrides: list[str], step: int, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        go(load(made, *overrides), tmp_path / "new", Origin(made / "run", step))
    assert not (tmp_path / "new").exists()


def test_another_architecture_is_refused(made: Path, tmp_path: Path) -> None:
    other = write_model(tmp_path / "wider", hidden_size=64)
    with pytest.raises(ValueError, match=r"does not fit the recipe's model: the base model's config\.json differ"):
        go(load(made, f"model.path={other}"), tmp_path / "new", Origin(made / "run", 4))
    assert not (tmp_path / "new").exists()


def test_a_run_and_its_step_are_read_from_one_word(tmp_path: Path) -> None:
    assert parse_origin("runs/a", keep_optimizer=False) == Origin(Path("runs/a"))
    assert parse_origin("runs/a@300", keep_optimizer=True) == Origin(Path("runs/a"), 300, keep_optimizer=True)
    (tmp_path / "me@7").mkdir()
    assert parse_origin(f"{tmp_path}/me@7", keep_optimizer=False) == Origin(tmp_path / "me@7")
    assert parse_origin(f"{tmp_path}/me@7@8", keep_optimizer=False) == Origin(tmp_path / "me@7", 8)
    for text in ("runs/a@", "runs/a@x", "runs/a@-1", "runs/a@\u0663"):
        with pytest.raises(ValueError, match=r"expected RUN or RUN@STEP"):
            parse_origin(text, keep_optimizer=False)


def test_the_command_line_goes_on_and_prints_the_command_as_it_was_given(made: Path, tmp_path: Path) -> None:
    settings = ["--set", "optimizer.learning_rate=1e-2"]
    new = tmp_path / "new"
    done = deepscaler("train", made / "tiny.toml", "--run-dir", new, "--from", f"{made / 'run'}@4", *settings)
    assert done.returncode == 0, done.stderr
    assert [row["step"] for row in steps(new)] == [5]
    alone = deepscaler("train", made / "tiny.toml", "--run-dir", tmp_path / "b", "--keep-optimizer")
    assert alone.returncode == 2 and "--keep-optimizer goes with --from" in alone.stderr
    nothing = deepscaler("train", made / "tiny.toml", "--run-dir", tmp_path / "b", "--from", tmp_path / "absent")
    assert nothing.returncode == 1 and "holds no checkpoint; give the directory of a run" in nothing.stderr


def test_a_command_can_be_pasted_into_a_shell() -> None:
    overrides = ["data.instruction=Think. It's $5", 'evaluation.benchmarks=["aime24"]']
    assert train_command(Path("my recipe.toml"), Path("r"), overrides, origin="a@3") == (
        "deepscaler train 'my recipe.toml' --run-dir r --set 'data.instruction=Think. It'\"'\"'s $5' "
        "--set 'evaluation.benchmarks=[\"aime24\"]' --from a@3"
    )
    assert train_command(Path("t"), Path("r"), [], origin="a", keep_optimizer=True).endswith(
        "--from a --keep-optimizer"
    )
