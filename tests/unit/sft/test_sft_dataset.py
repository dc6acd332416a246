"""Which traces a step trains on, and what becomes of those that are too long."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepscaler.cluster.model_directory import ModelDirectory, open_model
from deepscaler.config.supervised import load_supervised
from deepscaler.sft.dataset import Batches, read_traces
from tiny_sft import write_sft

NO_INTERVAL = ("sft.validate_every_steps=0",)


def test_an_epoch_takes_every_trace_once_in_an_order_of_its_own() -> None:
    batches = Batches(num_traces=10, traces_per_step=4, epochs=2, seed=1)
    assert batches.num_steps == 6 and batches.steps_per_epoch == 3
    steps = [list(batches.indices(step)) for step in range(1, 7)]
    first, second = ([index for step in half for index in step] for half in (steps[:3], steps[3:]))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert [len(step) for step in steps] == [4, 4, 2] * 2
    assert [batches.epoch_of(step) for step in range(1, 7)] == [1, 1, 1, 2, 2, 2]
    other = Batches(num_traces=10, traces_per_step=4, epochs=2, seed=2)
    assert [list(other.indices(step)) for step in range(1, 7)] != steps
    assert Batches(10, 4, 2, 1, limit=2).num_steps == 2


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sft(tmp_path_factory.mktemp("sft"))


@pytest.fixture(scope="module")
def files(recipe: Path) -> ModelDirectory:
    return open_model(str(load_supervised(recipe).model.path), "float32")


def test_traces_kept_out_are_not_trained_on(recipe: Path, files: ModelDirectory) -> None:
    train, held = read_traces(load_supervised(recipe, ["data.validation_frac=0.25", *NO_INTERVAL]), files)
    everything, none = read_traces(load_supervised(recipe, ["data.validation_frac=0", *NO_INTERVAL]), files)
    assert none is None and held is not None
    assert held.counts.num_traces == 10 and train.counts.num_traces == 30
    assert train.counts.num_tokens + held.counts.num_tokens == everything.counts.num_tokens
    again, _ = read_traces(load_supervised(recipe, ["data.validation_frac=0.25", *NO_INTERVAL]), files)
    assert again.digest == train.digest != everything.digest


def test_traces_above_the_limit_are_dropped_or_truncated_and_counted(recipe: Path, files: ModelDirectory) -> None:
    def read(*settings: str) -> tuple[int, int, int, int]:
        overrides = ["data.validation_frac=0", *NO_INTERVAL, "data.max_tokens=24", *settings]
        counts = read_traces(load_supervised(recipe, overrides), files)[0].counts
        return counts.num_sequences, counts.num_dropped, counts.num_truncated, counts.longest_tokens

    kept, dropped, truncated, longest = read()
    assert kept and dropped and not truncated and longest <= 24
    sequences, lost, cut, limit = read("data.too_long=truncate")
    assert (sequences + lost, cut, limit) == (kept + dropped, dropped - lost, 24)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.max_tokens=24", "data.too_long=error"], r"traces have more than 24 tokens .*row \d+"),
        (["data.max_tokens=4"], "so none is left; raise data.max_tokens"),
        (["training.tokens_per_micro_batch=4"], "raise training.tokens_per_micro_batch"),
        (["data.max_tokens=9999", "training.tokens_per_micro_batch=9999"], "above the model's context"),
        (["data.validation_frac=0.99"], "leaves none"),
    ],
)
def test_traces_that_leave_nothing_are_one_message(
    recipe: Path, files: ModelDirectory, settings: list[str], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        read_traces(load_supervised(recipe, settings), files)
