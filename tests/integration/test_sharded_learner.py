"""Ranks that divide weights, gradients and optimizer do what one process does, and end together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deepscaler.cluster.rank_group import RankGroup
from deepscaler.config.models import Recipe
from deepscaler.config.sections.algorithm import AlgorithmSection, KlSection
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import LoraSection, ModelSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.config.sections.training import OptimizerSection, TrainingSection
from deepscaler.modeling.lora import ADAPTER_FILE
from deepscaler.modeling.published_files import FileWeights
from deepscaler.training.checkpoint import CheckpointError, checkpoint_path, newest_checkpoint, save_checkpoint
from deepscaler.training.checkpoint_writer import CheckpointWriter
from deepscaler.training.learner import PolicyLearner
from deepscaler.types import RunError, TrainSample
from policy_learners import Parts, policy_learner
from sharded_ranks import Ranks, open_ranks
from tiny_models import make_model

LENGTHS = [9, 4, 12, 7, 3, 10]
MakeSamples = Callable[..., list[TrainSample]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    with open_ranks(4, tmp_path_factory.mktemp("ranks")) as opened:
        yield opened


def recipe(*, context_parallel: int = 1, **model: Any) -> Recipe:
    return Recipe(
        name="t",
        num_steps=1,
        model=ModelSection(path="unused", **model),
        data=DataSection(source="unused.json"),
        rollout=RolloutSection(prompts_per_step=2, group_size=2),
        stages=(StageSection(name="s", max_completion_tokens=8),),
        algorithm=AlgorithmSection(kl=KlSection(coefficient=0.1), entropy_coefficient=0.01),
        optimizer=OptimizerSection(learning_rate=1e-3, max_grad_norm=0.5),
        training=TrainingSection(tokens_per_micro_batch=20, logprob_chunk_tokens=5, context_parallel=context_parallel),
    )


def learner_of(group: RankGroup, given: Recipe) -> PolicyLearner:
    return PolicyLearner(group, given.algorithm, given.optimizer)


def published(group: RankGroup) -> list[torch.Tensor]:
    weights = group.publish(1)
    assert isinstance(weights, FileWeights)
    return [tensor for _, tensor in sorted(weights.tensors(weights.dtype))]


def held(model: Any) -> list[torch.Tensor]:
    return [parameter.detach() for _, parameter in sorted(model.named_parameters())]


def trained_alone(make_samples_of: MakeSamples, **model: Any) -> Parts:
    """After three steps, the second with two updates."""
    alone = policy_learner(make_model(), recipe(**model))
    for batches in batches_of_three_steps(make_samples_of):
        alone.learner.update(batches)
    return alone


def batches_of_three_steps(make_samples_of: MakeSamples) -> list[list[list[TrainSample]]]:
    first, second, third = (make_samples_of(LENGTHS, seed=seed) for seed in range(3))
    return [[first], [second[:2], second[2:]], [third]]


def assert_equal(given: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert len(given) == len(expected)
    assert all(torch.equal(a, b) for a, b in zip(given, expected, strict=True))


@pytest.mark.parametrize(
    ("size", "together", "checkpointing"),
    [(1, 1, False), (2, 1, False), (4, 1, False), (4, 1, True), (2, 2, False), (4, 2, True)],
)
def test_ranks_reproduce_one_process(
    ranks: Ranks, make_samples_of: MakeSamples, size: int, together: int, checkpointing: bool
) -> None:
    given = recipe(activation_checkpointing=checkpointing, context_parallel=together)
    alone, group = policy_learner(make_model(), given), ranks.world(size, given)
    samples = make_samples_of(LENGTHS)
    ref = alone.replica.logprobs(samples, of="reference")
    for a, b in zip(group.logprobs(samples, of="reference"), ref, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)
    expected, sums = alone.replica.accumulate(samples, None, ref), group.accumulate(samples, None, ref)
    assert (sums.num_tokens, sums.num_packed_tokens) == (expected.num_tokens, expected.num_packed_tokens)
    assert sums.loss == pytest.approx(expected.loss, abs=1e-6)
    for mine, parameter in zip(ranks.all(size, "gradients")[-1], alone.model.parameters(), strict=True):
        torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-6)
    assert group.apply(0.0, 1.0).grad_norm == pytest.approx(alone.replica.apply(0.0, 1.0).grad_norm, abs=1e-6)

    learner = learner_of(group, given)
    for batches in batches_of_three_steps(make_samples_of):
        mine, theirs = learner.update(batches), alone.learner.update(batches)
        assert mine.entropy_mean == pytest.approx(theirs.entropy_mean, abs=1e-6)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, abs=1e-5)
    for a, b in zip(published(group), held(alone.model), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("kind", "together"), [("gemma2", 1), ("gemma3_text", 2), ("qwen3_moe", 1)])
def test_ranks_reproduce_one_process_with_layers_that_are_not_llamas(
    ranks: Ranks, make_samples_of: MakeSamples, kind: str, together: int
) -> None:
    """Without a family; with windows across shards of a sequence; with experts."""
    given = recipe(context_parallel=together)
    alone, group = policy_learner(make_model(kind), given), ranks.world(2, given, family=kind)
    learner = learner_of(group, given)
    for batches in batches_of_three_steps(make_samples_of):
        mine, theirs = learner.update(batches), alone.learner.update(batches)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, abs=1e-5)
    for mine, parameter in zip(published(group), held(alone.model), strict=True):
        torch.testing.assert_close(mine, parameter, atol=1e-5, rtol=1e-5)


def test_ranks_without_samples_or_with_fewer_change_nothing(ranks: Ranks, make_samples_of: MakeSamples) -> None:
    given = recipe()
    for lengths in ([12, 5, 9], [11]):
        samples = make_samples_of(lengths)
        alone, group = policy_learner(make_model(), given), ranks.world(4, given)
        for a, b in zip(group.logprobs(samples), alone.replica.logprobs(samples), strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
        expected, sums = alone.replica.accumulate(samples, None, None), group.accumulate(samples, None, None)
        assert (sums.num_tokens, sums.loss) == (expected.num_tokens, pytest.approx(expected.loss, abs=1e-6))
        for mine, parameter in zip(ranks.all(4, "gradients")[0], alone.model.parameters(), strict=True):
            torch.testing.assert_close(mine, parameter.grad, atol=1e-6, rtol=1e-6)
    assert group.logprobs([]) == []


def test_mixed_precision_stays_near_one_process(ranks: Ranks, make_samples_of: MakeSamples) -> None:
    given, samples = recipe(dtype="bfloat16"), make_samples_of(LENGTHS)
    alone, group = policy_learner(make_model(), given), ranks.world(2, given)
    for a, b in zip(group.logprobs(samples), alone.replica.logprobs(samples), strict=True):
        np.testing.assert_allclose(a, b, atol=0.15)
    learner = learner_of(group, given)
    mine, theirs = learner.update([samples]), alone.learner.update([samples])
    assert mine.grad_norm == pytest.approx(theirs.grad_norm, rel=0.02)
    weights = group.publish(1)
    assert isinstance(weights, FileWeights)
    assert weights.dtype == "bfloat16"
    whole = dict(weights.tensors("bfloat16"))
    for name, parameter in alone.model.named_parameters():
        torch.testing.assert_close(whole[name].float(), parameter, atol=0.02, rtol=0.02)


def test_a_nan_on_one_rank_stops_the_update_on_all(ranks: Ranks, make_samples_of: MakeSamples) -> None:
    group, samples = ranks.world(2, recipe()), make_samples_of(LENGTHS)
    before = published(group)
    group.accumulate(samples, None, None)
    ranks.remotes[1].call("spoil_gradient").result()
    assert math.isnan(group.apply(1e-3, 1.0).grad_norm)
    assert_equal(published(group), before)
    group.accumulate(samples, None, None)
    assert math.isfinite(group.apply(1e-3, 1.0).grad_norm)


def test_a_checkpoint_of_ranks_is_loaded_by_any_number_of_them(
    ranks: Ranks, make_samples_of: MakeSamples, tmp_path: Path
) -> None:
    given, samples = recipe(), make_samples_of(LENGTHS)
    group = ranks.world(2, given)
    learner = learner_of(group, given)
    for batches in batches_of_three_steps(make_samples_of):
        learner.update(batches)
    saved = tmp_path / "of-2"
    saved.mkdir()
    learner.save(saved)
    weights, moments, logprobs = published(group), ranks.all(2, "moments")[0], group.logprobs(samples)
    for size in (1, 4, 2):
        loaded = ranks.world(size, given, seed=3)
        loaded.logprobs(samples)  # weights gathered for it must not be used again
        loaded_learner = learner_of(loaded, given)
        loaded_learner.load(saved)
        assert_equal(published(loaded), weights)
        assert_equal(ranks.all(size, "moments")[0], moments)
        for a, b in zip(loaded.logprobs(samples), logprobs, strict=True):
            np.testing.assert_allclose(a, b, atol=2e-6)
        saved = tmp_path / f"again-of-{size}"
        saved.mkdir()
        loaded_learner.save(saved)


def test_training_goes_on_while_copies_are_written(ranks: Ranks, make_samples_of: MakeSamples, tmp_path: Path) -> None:
    given, samples = recipe(), make_samples_of(LENGTHS)
    group = ranks.world(2, given)
    learner = learner_of(group, given)
    learner.update([samples])
    weights, moments = published(group), [moment.clone() for moment in ranks.all(2, "moments")[0]]
    writer = CheckpointWriter(tmp_path, in_background=True)
    ranks.all(2, "hold_writes")
    writer.save(1, {}, learner.begin_save, lambda: None)
    learner.update([samples])  # its collectives and those of the save are under way together
    assert writer.pending == 1
    ranks.all(2, "let_writes_go")
    learner.update([samples])
    writer.wait()
    loaded = ranks.world(4, given, seed=3)
    learner_of(loaded, given).load(checkpoint_path(tmp_path, 1))
    assert_equal(published(loaded), weights)
    assert_equal(ranks.all(4, "moments")[0], moments)


def test_one_process_and_ranks_load_each_other(ranks: Ranks, make_samples_of: MakeSamples, tmp_path: Path) -> None:
    given, alone = recipe(), trained_alone(make_samples_of)
    (tmp_path / "alone").mkdir()
    alone.learner.save(tmp_path / "alone")
    group = ranks.world(2, given, seed=3)
    learner = learner_of(group, given)
    learner.load(tmp_path / "alone")
    assert_equal(published(group), held(alone.model))
    (tmp_path / "ranks").mkdir()
    learner.save(tmp_path / "ranks")
    again = policy_learner(make_model(seed=4), given)
    again.learner.load(tmp_path / "ranks")
    assert again.digest() == alone.digest()
    for parameter, other in zip(alone.model.parameters(), again.model.parameters(), strict=True):
        for key, value in alone.optimizer.state[parameter].items():
            assert torch.equal(again.optimizer.state[other][key], value)
    reference = again.computer.reference
    assert reference is not None
    assert_equal(held(reference), held(make_model()))


@pytest.mark.parametrize(("size", "tied"), [(2, True), (3, False)])
def test_ranks_read_their_part_of_the_files_alone(
    ranks: Ranks, make_samples_of: MakeSamples, tmp_path: Path, size: int, tied: bool
) -> None:
    given, samples, model = recipe(), make_samples_of(LENGTHS), make_model(tied=tied, seed=5)
    files = tmp_path / "model"
    model.generation_config.max_new_tokens = 77
    model.save_pretrained(files)
    whole = ranks.world(size, given, tied=tied, seed=5)
    expected, of_reference = whole.logprobs(samples), whole.logprobs(samples, of="reference")
    group = ranks.world(size, given, files=files)
    assert_equal(published(group), held(model))
    for a, b in zip(group.logprobs(samples), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(group.logprobs(samples, of="reference"), of_reference, strict=True):
        np.testing.assert_array_equal(a, b)
    for rank in ranks.all(size, "buffers"):
        assert [name for name, _ in rank] == [name for name, _ in model.named_buffers()]
        assert_equal([buffer for _, buffer in rank], [buffer for _, buffer in model.named_buffers()])
    learner_of(group, given).update([samples])
    (tmp_path / "saved").mkdir()
    group.save(tmp_path / "saved")
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "saved" / name).read_bytes() == (files / name).read_bytes()


@pytest.mark.parametrize(("size", "together"), [(2, 1), (2, 2), (4, 1)])
def test_adapters_on_ranks_are_those_of_one_process(
    ranks: Ranks, make_samples_of: MakeSamples, tmp_path: Path, size: int, together: int
) -> None:
    given = recipe(lora=LoraSection(rank=3), context_parallel=together)
    make_model().save_pretrained(tmp_path / "base")
    alone, group = policy_learner(make_model(), given), ranks.world(size, given, files=tmp_path / "base")
    learner = learner_of(group, given)
    assert group.publish(0).digest("float32") == alone.learner.publish().digest("float32")
    for batches in batches_of_three_steps(make_samples_of):
        mine, theirs = learner.update(batches), alone.learner.update(batches)
        assert mine.grad_norm == pytest.approx(theirs.grad_norm, abs=1e-5)
    expected = sorted(alone.learner.publish().tensors("float32"))
    for given_weight, (_, weight) in zip(published(group), expected, strict=True):
        torch.testing.assert_close(given_weight, weight.detach(), atol=1e-6, rtol=0.0)
    saved, digest = tmp_path / "saved", group.publish(1).digest("float32")
    saved.mkdir()
    learner.save(saved)
    assert (saved / ADAPTER_FILE).is_file() and not list(saved.glob("model*"))
    loaded = ranks.world(3, given.model_copy(update={"training": recipe().training}), files=tmp_path / "base")
    learner_of(loaded, given).load(saved)
    assert loaded.publish(1).digest("float32") == digest
    again = policy_learner(make_model(), given)
    again.learner.load(saved)
    assert again.learner.publish().digest("float32") == digest


def test_three_ranks_publish_what_one_process_holds(ranks: Ranks, tmp_path: Path) -> None:
    group, alone = ranks.world(3, recipe()), policy_learner(make_model(), recipe())
    weights = group.publish(7)
    assert (weights.version, weights.digest("float32")) == (7, alone.digest())
    (tmp_path / "a-file").write_text("")
    with pytest.raises(RunError, match="learner rank 0: save failed"):
        group.save(tmp_path / "a-file" / "below")
    assert group.publish(8).digest("float32") == alone.digest(), "and all ranks answer on"


def test_a_new_stage_takes_over_the_weights_as_reference(ranks: Ranks, make_samples_of: MakeSamples) -> None:
    given, samples = recipe(), make_samples_of(LENGTHS)
    group = ranks.world(2, given)
    learner_of(group, given).update([samples])
    group.begin_stage(reset_optimizer=True, reset_reference=True)
    for a, b in zip(group.logprobs(samples), group.logprobs(samples, of="reference"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_sample_above_the_budget_is_refused_on_all_ranks(ranks: Ranks, make_samples_of: MakeSamples) -> None:
    given = recipe()
    group = ranks.world(2, given)
    with pytest.raises(RunError, match=r"exceeds training\.tokens_per_micro_batch"):
        group.accumulate([*make_samples_of([4]), *make_samples_of([5000])], None, None)


def endless(learner: PolicyLearner, samples: list[TrainSample]) -> None:
    for _ in range(1000):
        learner.update([samples])


@pytest.mark.parametrize("part", ["accumulate", "gather", "save", "background"])
def test_a_killed_rank_ends_the_others(part: str, make_samples_of: MakeSamples, tmp_path: Path) -> None:
    given, samples = recipe(), make_samples_of(LENGTHS)
    with open_ranks(2, tmp_path) as ranks:
        group = ranks.world(2, given)
        learner = learner_of(group, given)
        learner.update([samples])
        writer = CheckpointWriter(tmp_path / "checkpoints", in_background=True)
        writer.save(1, {}, learner.begin_save, lambda: None)
        writer.wait()
        digest = group.publish(1).digest("float32")
        ranks.remotes[1].call("die_in", part).result()
        work = {
            "accumulate": lambda: learner.update([samples]),
            "gather": lambda: group.publish(2),
            "save": lambda: save_checkpoint(tmp_path / "checkpoints", 2, {}, learner.save),
            "background": lambda: writer.save(2, {}, learner.begin_save, lambda: None) or endless(learner, samples),
        }
        with pytest.raises(RunError, match="learner rank 1 died"):
            work[part]()
        with suppress(CheckpointError):
            writer.abandon()
    found = newest_checkpoint(tmp_path / "checkpoints")
    assert found is not None
    assert found.path.name == "step-000001"
    again = policy_learner(make_model(seed=4), given)
    again.learner.load(found.path)
    assert again.digest() == digest
