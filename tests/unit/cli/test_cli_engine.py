"""`eval --engine`: which engine in this process, and what is said where it cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from deepscaler.cli.evaluate import EvalArguments, evaluate
from deepscaler.config.evaluation import load_evaluation
from deepscaler.config.schema import RecipeError
from deepscaler.engines.vllm import engine as vllm_engine
from deepscaler.modeling.load import load_model, load_tokenizer, stop_token_ids, stop_token_ids_of
from tiny_run import write_model, write_recipe


def arguments(**given: Any) -> EvalArguments:
    empty = dict.fromkeys(EvalArguments.__dataclass_fields__)
    defaults = {"suite": "chains", "benchmarks": Path("none"), "out": Path("none"), "overrides": ()}
    return EvalArguments(**{**empty, **defaults, **given})


def test_without_vllm_the_message_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from deepscaler.evaluation.datasets import describe
    from deepscaler.loop.evaluate import Job, evaluate_model
    from deepscaler.loop.progress import Progress

    monkeypatch.setattr(vllm_engine, "vllm_version", lambda: None)
    job = Job(load_evaluation(None, ['engine.kind="vllm"']), describe({}), tmp_path / "out", Progress())
    with pytest.raises(ValueError, match=r"vLLM is not installed .* `make \.venv-vllm` makes an environment"):
        evaluate_model(write_model(tmp_path / "model"), job)
    assert not (tmp_path / "out").exists()


def test_an_unknown_engine_is_a_mistake_in_the_recipe() -> None:
    with pytest.raises(RecipeError, match=r"engine\.kind.*'torch' or 'vllm'"):
        evaluate(arguments(model="somewhere", suite="aime24", engine="sglang"))


def test_a_server_has_an_engine_of_its_own() -> None:
    with pytest.raises(ValueError, match="--engine vllm is for a model evaluated in this process"):
        evaluate(arguments(endpoint="http://127.0.0.1:1/v1", served_model="x", engine="vllm"))


def test_the_held_out_sets_of_a_training_recipe_stay_with_its_engine(tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path)
    with pytest.raises(RecipeError, match="is a training recipe, and its held-out sets are evaluated with the engine"):
        evaluate(arguments(model=str(tmp_path / "model"), suite=None, recipe=recipe, engine="vllm"))


@pytest.mark.parametrize("ids", [None, 7, [7, 1]])
def test_stop_ids_are_known_without_loading_the_model(tmp_path: Path, ids: Any) -> None:
    directory = write_model(tmp_path)
    model, tokenizer = load_model(directory), load_tokenizer(directory)
    if ids is None:
        (directory / "generation_config.json").unlink()
        model = load_model(directory)
    else:
        model.generation_config.eos_token_id = ids  # type: ignore[union-attr]
        model.generation_config.save_pretrained(directory)  # type: ignore[union-attr, operator]
    assert stop_token_ids_of(directory, tokenizer) == stop_token_ids(model, tokenizer)
