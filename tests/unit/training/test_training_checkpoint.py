"""A checkpoint is whole or not there."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from deepscaler.training.checkpoint import (
    CheckpointError,
    checkpoint_path,
    find_damage,
    newest_checkpoint,
    prune,
    save_checkpoint,
)


def write(directory: Path) -> None:
    (directory / "weights").write_bytes(b"\x01" * 1000)


def test_what_is_saved_is_found(tmp_path):
    save_checkpoint(tmp_path, 3, {"step": 3}, write)
    path = save_checkpoint(tmp_path, 12, {"step": 12, "x": [1, 2.5]}, write)
    assert path == tmp_path / "step-000012"
    assert newest_checkpoint(tmp_path) == (path, {"step": 12, "x": [1, 2.5]})


def test_no_checkpoint_is_no_error(tmp_path):
    assert newest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path, damage):
    save_checkpoint(tmp_path, 1, {"step": 1}, write)
    newest = save_checkpoint(tmp_path, 2, {"step": 2}, write)
    if damage == "flip":
        (newest / "weights").write_bytes(b"\x01" * 999 + b"\x02")
    elif damage == "cut":
        (newest / "weights").write_bytes(b"\x01" * 10)
    elif damage == "remove":
        (newest / "weights").unlink()
    else:
        (newest / "manifest.json").write_text("{")
    assert find_damage(newest)
    found = newest_checkpoint(tmp_path)
    assert found is not None and found[1] == {"step": 1}
    save_checkpoint(tmp_path, 2, {"step": 2}, write)
    assert find_damage(newest) is None


def test_all_damaged_is_an_error_that_names_each(tmp_path):
    (save_checkpoint(tmp_path, 1, {}, write) / "weights").unlink()
    with pytest.raises(CheckpointError, match="step-000001: weights is missing"):
        newest_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("I/O error: No space left on device")],
)
def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_trace(tmp_path, error):
    good = save_checkpoint(tmp_path, 1, {"step": 1}, write)

    def fill(directory: Path) -> None:
        write(directory)
        raise error

    with pytest.raises(CheckpointError, match=r"disk is full .*Make room and run the same command again"):
        save_checkpoint(tmp_path, 2, {"step": 2}, fill)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert newest_checkpoint(tmp_path) == (good, {"step": 1})


def test_leftovers_of_a_crash_are_never_taken_for_a_checkpoint(tmp_path):
    torn = tmp_path / ".writing-000009"
    torn.mkdir()
    write(torn)
    assert newest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, 10, {}, write)
    assert not torn.exists()


def test_pruning_keeps_the_newest_and_the_protected(tmp_path):
    for step in range(6):
        save_checkpoint(tmp_path, step, {}, write)
    prune(tmp_path, 2, {0, 3})
    assert sorted(p.name for p in tmp_path.iterdir()) == [checkpoint_path(tmp_path, s).name for s in (0, 3, 4, 5)]
