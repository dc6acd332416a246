"""Adapters: the base at the start, PEFT's numbers, one merged model everywhere, and checkpoints of adapters only."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from deepscaler.config import load_recipe
from deepscaler.config.models import Recipe
from deepscaler.config.parts import require_lora
from deepscaler.config.sections.algorithm import AlgorithmSection, KlSection
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import LoraSection, ModelSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.config.sections.training import OptimizerSection, TrainingSection
from deepscaler.modeling.lora import ADAPTER_FILE, adapter_parameters, add_adapters
from deepscaler.modeling.lora_merge import merge_adapters
from deepscaler.modeling.weights import weights_digest
from deepscaler.training.optimizer_state import OPTIMIZER_FILE
from deepscaler.types import TrainSample
from policy_learners import Parts, policy_learner
from tiny_models import make_model

LENGTHS = [9, 4, 12, 7]
RECIPES = Path(__file__).parents[3] / "recipes"
MakeSamples = Callable[..., list[TrainSample]]
# PEFT asks transformers by a name that transformers 6 removes.
of_peft_itself = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def recipe(*, kl: float = 0.1, rank: int = 4, targets: tuple[str, ...] = (), **model: Any) -> Recipe:
    return Recipe(
        name="t",
        num_steps=1,
        model=ModelSection(path="unused", lora=LoraSection(rank=rank, targets=targets), **model),
        data=DataSection(source="unused.json"),
        rollout=RolloutSection(prompts_per_step=2, group_size=2),
        stages=(StageSection(name="s", max_completion_tokens=8),),
        algorithm=AlgorithmSection(kl=KlSection(coefficient=kl)),
        optimizer=OptimizerSection(learning_rate=1e-2),
        training=TrainingSection(tokens_per_micro_batch=40, logprob_chunk_tokens=5),
    )


def saved_base(directory: Path, **model: Any) -> Any:
    made = make_model(**model)
    made.save_pretrained(directory)
    made.name_or_path = str(directory)
    return made


def plain_model(**settings: Any) -> Any:
    """With transformers' own layers and attention."""
    made = make_model(accelerated=False, **settings)
    made.set_attn_implementation("eager")
    return made


def trained(given: Recipe, make_samples_of: MakeSamples, model: Any = None) -> Parts:
    parts = policy_learner(make_model() if model is None else model, given)
    for seed in range(3):
        parts.update(make_samples_of(LENGTHS, seed=seed))
    return parts


def published(parts: Parts) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in parts.learner.publish().tensors("float32")}


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "llama"])
def test_the_start_is_the_base_bit_for_bit(family: str, make_samples_of: MakeSamples) -> None:
    samples, base = make_samples_of(LENGTHS), make_model(family)
    full, parts = policy_learner(make_model(family), recipe(rank=0)), policy_learner(make_model(family), recipe())
    assert parts.learner.publish().digest("float32") == weights_digest(base.named_parameters())
    for given in (parts.replica.logprobs(samples), parts.replica.logprobs(samples, of="reference")):
        for a, b in zip(given, full.replica.logprobs(samples), strict=True):
            np.testing.assert_array_equal(a, b)


@of_peft_itself
def test_gradients_are_those_of_plain_peft(make_samples_of: MakeSamples) -> None:
    samples, given = make_samples_of(LENGTHS), recipe(kl=0.0)
    parts = policy_learner(make_model(), given)
    config = peft.LoraConfig(r=4, lora_alpha=32, target_modules="all-linear")
    plain: Any = peft.get_peft_model(plain_model(), config)
    with torch.no_grad():
        for seed, (mine, theirs) in enumerate(zip(*factors_of(parts.model, plain), strict=True)):
            value = torch.randn(mine.shape, generator=torch.Generator().manual_seed(seed)) / 10
            mine.copy_(value)
            theirs.copy_(value)
    parts.replica.accumulate(samples, None, None)
    temperature = given.rollout.temperature
    for sample in samples:
        ids = torch.tensor(np.concatenate([sample.prompt_ids, sample.completion_ids]), dtype=torch.int64)
        logits = plain(ids.unsqueeze(0)).logits[0] / temperature
        start = len(sample.prompt_ids)
        logprobs = logits.log_softmax(-1)[start - 1 : -1].gather(1, ids[start:].unsqueeze(1)).squeeze(1)
        ratio = (logprobs - logprobs.detach()).exp()
        (-sample.advantage * torch.tensor(sample.token_weights) * ratio).sum().backward()
    for mine, theirs in zip(*factors_of(parts.model, plain), strict=True):
        assert theirs.grad is not None and theirs.grad.any()
        torch.testing.assert_close(mine.grad, theirs.grad, atol=3e-6, rtol=1e-4)
    frozen = [p for name, p in parts.model.named_parameters() if ".lora_" not in name]
    assert frozen and all(p.grad is None and not p.requires_grad for p in frozen)


def factors_of(model: Any, plain: Any) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    of_plain = {name.replace(".default.", "."): p for name, p in plain.named_parameters() if ".lora_" in name}
    mine = adapter_parameters(model)
    assert mine.keys() == of_plain.keys()
    return list(mine.values()), [of_plain[name] for name in mine]


@of_peft_itself
@pytest.mark.parametrize("tied", [True, False])
def test_merged_is_the_same_model_for_the_engine_an_evaluation_and_peft(
    make_samples_of: MakeSamples, tmp_path: Path, tied: bool
) -> None:
    parts = trained(recipe(), make_samples_of, saved_base(tmp_path / "base", tied=tied))
    (tmp_path / "saved").mkdir()
    parts.learner.save(tmp_path / "saved")
    weights, samples = published(parts), make_samples_of(LENGTHS)
    merge_adapters(
        tmp_path / "saved",
        tmp_path / "base",
        weights_digest(make_model(tied=tied).named_parameters()),
        tmp_path / "merged",
    )
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert all(torch.equal(stored[name], weight) for name, weight in weights.items())

    alone, of_weights = make_model(tied=tied), plain_model(tied=tied)
    of_weights.load_state_dict(weights, strict=False)
    alone.load_state_dict(weights, strict=False)
    of_merged = policy_learner(alone, recipe(rank=0)).replica.logprobs(samples)
    for a, b in zip(parts.replica.logprobs(samples), of_merged, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    changed = np.concatenate(of_merged) - np.concatenate(parts.replica.logprobs(samples, of="reference"))
    assert np.abs(changed).max() > 0.01

    of_peft: Any = peft.PeftModel.from_pretrained(plain_model(tied=tied), tmp_path / "saved")
    ids = torch.arange(2, 14).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(of_peft(ids).logits, of_weights(ids).logits, atol=1e-4, rtol=1e-5)


def test_the_reference_is_the_base_while_the_policy_changes(make_samples_of: MakeSamples) -> None:
    samples, parts = make_samples_of(LENGTHS), trained(recipe(), make_samples_of)
    base = policy_learner(make_model(), recipe(rank=0)).replica.logprobs(samples)
    for a, b in zip(parts.replica.logprobs(samples, of="reference"), base, strict=True):
        np.testing.assert_array_equal(a, b)
    assert parts.computer.reference is parts.model


def test_checkpoints_hold_adapters_only_and_continue_to_the_same_bits(
    make_samples_of: MakeSamples, tmp_path: Path
) -> None:
    parts, last = trained(recipe(), make_samples_of), make_samples_of(LENGTHS, seed=7)
    parts.learner.save(tmp_path)
    (tmp_path / "copy").mkdir()
    parts.learner.begin_save(tmp_path / "copy").result()
    assert not list(tmp_path.glob("model*")) and not list(tmp_path.glob("reference*"))
    optimizer, held = load_file(tmp_path / OPTIMIZER_FILE), load_file(tmp_path / ADAPTER_FILE)
    assert len(optimizer) == 3 * len(held) == 3 * 2 * 7 * 2  # factors of seven linear layers in two layers
    assert all(torch.equal(value, held[name]) for name, value in load_file(tmp_path / "copy" / ADAPTER_FILE).items())
    again = policy_learner(make_model(), recipe())
    again.learner.load(tmp_path)
    for each in (parts, again):
        each.update(last)
    assert again.learner.publish().digest("float32") == parts.learner.publish().digest("float32")


def test_activation_checkpointing_and_bfloat16_go_together_with_adapters(make_samples_of: MakeSamples) -> None:
    plain, saving = (trained(recipe(activation_checkpointing=given), make_samples_of) for given in (False, True))
    a, b = published(plain), published(saving)
    for name, weight in a.items():
        torch.testing.assert_close(b[name], weight, atol=1e-6, rtol=0.0)
    half = trained(recipe(dtype="bfloat16"), make_samples_of)
    assert half.learner.publish().digest("float32") != weights_digest(make_model().named_parameters())


def test_only_named_layers_get_adapters() -> None:
    model = make_model()
    add_adapters(model, rank=2, alpha=4, targets=("q_proj", "down_proj"), seed=0)
    kinds = {name.split(".")[-3] for name in adapter_parameters(model)}
    assert kinds == {"q_proj", "down_proj"}
    with pytest.raises(ValueError, match=r"no linear layers named query; it has down_proj, gate_proj"):
        add_adapters(make_model(), rank=2, alpha=4, targets=("query",), seed=0)


def test_checkpoints_of_another_kind_are_refused(make_samples_of: MakeSamples, tmp_path: Path) -> None:
    for name, rank, other in (("adapters", 4, 0), ("whole", 0, 4)):
        (tmp_path / name).mkdir()
        policy_learner(make_model(), recipe(rank=rank)).learner.save(tmp_path / name)
        with pytest.raises(ValueError, match=r"but the recipe trains .* same \[model.lora\]"):
            policy_learner(make_model(), recipe(rank=other)).learner.load(tmp_path / name)


def test_another_base_is_not_merged(tmp_path: Path) -> None:
    saved_base(tmp_path / "base", seed=1)
    with pytest.raises(ValueError, match="whose weights have changed"):
        merge_adapters(tmp_path, tmp_path / "base", "0" * 64, tmp_path / "merged")
    with pytest.raises(ValueError, match="which is not there"):
        merge_adapters(tmp_path, tmp_path / "gone", "0" * 64, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["model.lora.alpha=8"], "model.lora.alpha does nothing"),
        (["model.lora.rank=8"], "reset_reference with model.lora.rank = 8"),
    ],
)
def test_settings_that_contradict_are_refused(settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_recipe(RECIPES / "deepscaler-1.5b.toml", settings)


def test_a_missing_peft_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require_lora(0)
    with pytest.raises(ValueError, match=r"deepscaler\[lora\]"):
        require_lora(8)
