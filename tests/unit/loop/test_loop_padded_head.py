"""Training, evaluation and serving all leave out the rows of a padded head, and stop where the recipe says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import Request as HttpRequest
from urllib.request import urlopen

import pytest

from deepscaler.cluster.embedded import open_torch_engine
from deepscaler.cluster.model_directory import open_model
from deepscaler.config import load_recipe
from deepscaler.config.evaluation import EngineSection
from deepscaler.loop.build import open_run
from deepscaler.loop.experience import OnPolicy
from deepscaler.loop.progress import Progress
from deepscaler.loop.validation import Evaluator
from deepscaler.modeling.head import forbidden_ids
from deepscaler.modeling.load import load_model, load_tokenizer
from deepscaler.training.learner import PolicyLearner
from deepscaler.training.replica import ModelReplica
from deepscaler.types import Request, SamplingParams
from served_model import served
from tiny_run import write_model, write_recipe

PADDING = 64


@pytest.fixture
def padded(tmp_path: Path) -> Path:
    """A model whose head has more rows than its tokenizer tokens."""
    directory = write_model(tmp_path / "model")
    model: Any = load_model(directory)
    model.resize_token_embeddings(len(load_tokenizer(directory)) + PADDING, mean_resizing=False)
    model.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_samples_tokens_only(padded, tmp_path, dtype):
    path = write_recipe(tmp_path, processes=1, model=padded)
    count = len(load_tokenizer(padded))
    settings = [f'model.dtype="{dtype}"', 'rollout.stop=["1"]', "rollout.stop_token_ids=[10]"]
    with open_run(load_recipe(path, settings), padded, tmp_path / "run", Progress()) as run:
        assert isinstance(run.experience, OnPolicy)
        assert isinstance(run.cluster.learner, PolicyLearner)
        replica = run.cluster.learner.replica
        assert isinstance(replica, ModelReplica)
        computer = replica.computer
        assert computer.reference is not None
        for model in (computer.model, computer.reference):
            ids = forbidden_ids(model)
            assert ids is not None and ids.tolist() == list(range(count, count + PADDING))
        params = SamplingParams(40, seed=1, stop=run.recipe.rollout.stop)
        groups = run.experience.sample(run.stream.take(4), 8, params, {})
        items = run.experience.to_items(groups)
        assert isinstance(run.validation, Evaluator) and run.validation.engine["num_forbidden_ids"] == PADDING
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    assert max(int(r.completion_ids.max()) for r in rollouts) < count
    assert not any(10 in r.completion_ids[:-1] for r in rollouts) and any(r.completion_ids[-1] == 10 for r in rollouts)
    assert not any("1" in item.completion for item in items)


def test_evaluation_and_serving_do_as_well(padded):
    count = len(load_tokenizer(padded))
    files, params = open_model(padded, "auto"), SamplingParams(40, seed=1, stop=("1",))
    assert files.stopping_fingerprint() == {"num_forbidden_ids": PADDING}
    prompt = files.tokenizer("12", return_tensors="np").input_ids[0].astype("int32")
    with open_torch_engine(files, EngineSection(processes=1), capacity=80, params=params) as (sampler, decode):
        rollouts = list(sampler.generate([Request("a", prompt, 32)], params))
    assert max(int(r.completion_ids.max()) for r in rollouts) < count
    assert not any("1" in decode(r.completion_ids) for r in rollouts)
    asked = {"model": "tiny", "prompt": "12", "max_tokens": 40, "n": 32, "seed": 1, "logprobs": 0}
    with served(padded, context=100) as (address, _):
        call = HttpRequest(f"{address}/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"})
        with urlopen(call, timeout=60) as reply:
            choices = json.load(reply)["choices"]
    tokens = [token for choice in choices for token in choice["logprobs"]["tokens"]]
    assert len(tokens) > 100 and all(tokens)  # a row without a token would be an empty text
