"""How far a model's positions reach, and that engine and learner rotate every sequence of a run alike."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.config.context import context_limit, context_of_directory
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.modeling.load import load_model
from deepscaler.modeling.positions import cast_parameters, fit_positions, model_context
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import SamplingParams, TrainSample
from engine_runs import requests, run

ORIGINAL = 32
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 5.0, 9.0, 20.0],
    "factor": 4.0,
    "original_max_position_embeddings": ORIGINAL,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def stretched(tiny_model: Any, tmp_path: Any, rope: dict[str, Any], **settings: Any) -> Any:
    """A model directory with these rotations."""
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rope_parameters": rope, **settings}))
    return tmp_path


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        ({"max_position_embeddings": 4096}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": None}, 4096),
        ({"max_position_embeddings": 4096, "rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        ({"max_position_embeddings": 4096, "rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, 8192),
        (
            {
                "max_position_embeddings": 32768,
                "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 163840,
                "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
            },
            163840,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "original_max_position_embeddings": 4096,
                "rope_scaling": {"type": "longrope", "long_factor": [1.0], "short_factor": [1.0]},
            },
            131072,
        ),
    ],
)
def test_the_context_is_what_the_factor_stretches_it_to(config, limit):
    assert context_limit(config) == limit


def test_transformers_own_configuration_and_the_file_say_the_same(tiny_model, tmp_path):
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 64}
    directory = stretched(tiny_model, tmp_path, yarn, max_position_embeddings=64)
    model: Any = load_model(directory)
    assert context_of_directory(directory) == model_context(model.config) == 256
    assert TorchEngine(model, stop_ids=frozenset()).context_limit == 256
    assert context_of_directory(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("rope", "settings"),
    [(LONGROPE, {"max_position_embeddings": 128}), (DYNAMIC, {"max_position_embeddings": ORIGINAL})],
)
def test_engine_and_learner_agree_where_rotations_depend_on_the_length(tiny_model, tmp_path, rope, settings):
    directory = stretched(tiny_model, tmp_path, rope, **settings)
    for longest in (ORIGINAL, 120):  # the first set of rotations, and the other one
        model: Any = load_model(directory, longest=longest)
        params = SamplingParams(longest - 27 if longest > ORIGINAL else 5, seed=5)
        wanted = [r for r in requests(3, 3) if len(r.prompt_ids) + params.max_completion_tokens <= longest]
        rollouts = run(TorchEngine(model, stop_ids=frozenset(), max_active=4), wanted, params).values()
        samples = [
            TrainSample(r.prompt_ids, r.completion_ids, r.rollout_logprobs, 1.0, np.ones(r.num_tokens, np.float32), 0)
            for r in rollouts
        ]
        training = TrainingSection(tokens_per_micro_batch=256)
        computer = GradientComputer(model, None, AlgorithmSection(), training, temperature=1.0)
        for one in ([s] for s in samples):  # alone and together: packing changes nothing
            np.testing.assert_allclose(computer.logprobs(one)[0], one[0].rollout_logprobs, atol=2e-5)
        for sample, found in zip(samples, computer.logprobs(samples), strict=True):
            np.testing.assert_allclose(found, sample.rollout_logprobs, atol=2e-5)


def test_such_a_model_is_not_sampled_from_before_the_longest_sequence_is_known(tiny_model, tmp_path):
    directory = stretched(tiny_model, tmp_path, LONGROPE, max_position_embeddings=128)
    with pytest.raises(ValueError, match="rope_type 'longrope' chooses rotations by the longest sequence"):
        TorchEngine(load_model(directory), stop_ids=frozenset())
    model: Any = load_model(directory, longest=40)
    with pytest.raises(ValueError, match="exceeds the model's context of 40"):
        run(TorchEngine(model, stop_ids=frozenset()), requests(1), SamplingParams(60))


def test_a_window_counts_only_where_a_sequence_is_longer(tiny_model, tmp_path):
    layers = {"layer_types": ["full_attention", "sliding_attention"], "use_sliding_window": True, "sliding_window": 40}
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    directory = stretched(tiny_model, tmp_path, plain, max_window_layers=1, **layers)
    params, wanted = SamplingParams(60, seed=5), requests(3)
    engine = TorchEngine(load_model(directory, longest=128), stop_ids=frozenset())
    found, free = (run(each, wanted, params) for each in (engine, TorchEngine(tiny_model(), stop_ids=frozenset())))
    for key, rollout in found.items():
        within = 40 - len(rollout.prompt_ids)
        np.testing.assert_array_equal(rollout.completion_ids[:within], free[key].completion_ids[:within])
    assert any(not np.array_equal(r.completion_ids, free[key].completion_ids) for key, r in found.items())


def test_sequences_beyond_the_context_are_refused_at_load(tiny_model):
    with pytest.raises(ValueError, match="sequences of 129 tokens exceed the model's context of 128"):
        fit_positions(tiny_model(), 129)
    fit_positions(tiny_model(), 128)


def test_a_model_whose_rotations_were_rounded_is_refused(tiny_model: Any) -> None:
    """model.to(bfloat16) rounds buffers as well: 0.3 nats of mismatch at 8K tokens, and no error."""
    rounded = tiny_model().to(torch.bfloat16)
    with pytest.raises(ValueError, match="rotary frequencies were rounded"):
        TorchEngine(rounded, stop_ids=frozenset())
    for policy, reference in ((rounded, None), (tiny_model(), rounded)):
        with pytest.raises(ValueError, match="cast_parameters"):
            GradientComputer(policy, reference, AlgorithmSection(), TrainingSection(), temperature=1.0)


def test_casting_parameters_leaves_rotations(tiny_model: Any) -> None:
    model = tiny_model()
    before = model.base_model.rotary_emb.inv_freq.clone()
    assert cast_parameters(model, torch.bfloat16) is model
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert torch.equal(model.base_model.rotary_emb.inv_freq, before)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    TorchEngine(model, stop_ids=frozenset())
