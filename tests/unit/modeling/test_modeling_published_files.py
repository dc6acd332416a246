"""Weights as files: whole or not there, equal after the cast, and a difference is named."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deepscaler.modeling import published_files
from deepscaler.modeling.published_files import (
    FileWeights,
    read_weights,
    remove_versions,
    write_weights,
)
from deepscaler.modeling.weights import differing_tensors, tensor_digests, weights_digest
from deepscaler.types import RunError


def made(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {f"layers.{i}.weight": torch.randn(4, 3 + i, generator=generator) for i in range(4)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_is_read_is_what_was_written(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published_files, "FILE_BYTES", 60)  # several files
    weights = made()
    written = write_weights(tmp_path, 7, iter(weights.items()), dtype)
    assert written == read_weights(tmp_path / "version-7") == pickle.loads(pickle.dumps(written))
    assert len(written.files) > 1
    read = dict(written.tensors(dtype))
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name].to(getattr(torch, dtype))) for name in weights)
    for each in (dtype, "float32"):
        assert written.digest(each) == weights_digest(weights.items(), getattr(torch, each))


def test_another_dtype_is_refused(tmp_path: Path) -> None:
    written = write_weights(tmp_path, 1, made().items(), "float32")
    with pytest.raises(ValueError, match="published in float32"):
        written.digest("bfloat16")
    with pytest.raises(ValueError, match="published in float32"):
        next(written.tensors("bfloat16"))


def flipped(weights: dict[str, Tensor]) -> None:
    weights["layers.2.weight"].view(torch.int32)[0, 0] ^= 1


def dropped(weights: dict[str, Tensor]) -> None:
    del weights["layers.2.weight"]


def doubled(weights: dict[str, Tensor]) -> None:
    weights["layers.2.weight"] = weights["layers.2.weight"].double()


@pytest.mark.parametrize("fault", [flipped, dropped, doubled])
def test_a_difference_is_named(tmp_path: Path, fault: object) -> None:
    assert callable(fault)
    weights = made()
    written = write_weights(tmp_path, 1, made().items(), "float32")
    assert differing_tensors(written, tensor_digests(weights.items()), "float32") == []
    fault(weights)
    assert differing_tensors(written, tensor_digests(weights.items()), "float32") == ["layers.2.weight"]


def test_equal_shapes_exchanged_are_named_both(tmp_path: Path) -> None:
    weights = {"a": torch.ones(2), "b": torch.zeros(2)}
    written = write_weights(tmp_path, 1, weights.items(), "float32")
    exchanged = {"a": weights["b"], "b": weights["a"]}
    assert differing_tensors(written, tensor_digests(exchanged.items()), "float32") == ["a", "b"]


def test_a_writer_that_dies_leaves_no_version(tmp_path: Path) -> None:
    def dies() -> object:
        yield from list(made().items())[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_weights(tmp_path, 3, dies(), "float32")  # type: ignore[arg-type]
    with pytest.raises(RunError, match=r"version-3.*no published weights"):
        read_weights(tmp_path / "version-3")
    write_weights(tmp_path, 3, made().items(), "float32")
    remove_versions(tmp_path, keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["version-3"]


def test_old_versions_go_and_a_reader_of_one_is_told(tmp_path: Path) -> None:
    handles: list[FileWeights] = [write_weights(tmp_path, n, made(n).items(), "float32") for n in (9, 10, 11)]
    remove_versions(tmp_path, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["version-10", "version-11"]
    with pytest.raises(RunError, match=r"version 9.*shared by all machines"):
        dict(handles[0].tensors("float32"))
    remove_versions(tmp_path)
    assert not list(tmp_path.iterdir())
