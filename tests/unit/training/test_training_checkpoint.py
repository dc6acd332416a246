"""A checkpoint is whole or not there."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deepscaler.training.checkpoint import (
    CheckpointError,
    checkpoint_path,
    find_damage,
    newest_checkpoint,
    prune,
    read_checkpoint,
    save_checkpoint,
    steps_in,
)


def write(directory: Path) -> None:
    (directory / "weights").write_bytes(b"\x01" * 1000)


def test_what_is_saved_is_found(tmp_path):
    save_checkpoint(tmp_path, 3, {"step": 3}, write)
    path = save_checkpoint(tmp_path, 12, {"step": 12, "x": [1, 2.5]}, write)
    assert path == tmp_path / "step-000012"
    assert newest_checkpoint(tmp_path) == (path, {"step": 12, "x": [1, 2.5]}, ())


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


FAULTS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "beyond the size allowed",
    errno.EIO: "input/output error",
}


@pytest.mark.parametrize("number", FAULTS)
@pytest.mark.parametrize("kind", ["os", "safetensors"])
def test_storage_that_refuses_is_one_message_and_leaves_no_trace(tmp_path, number, kind):
    good = save_checkpoint(tmp_path, 1, {"step": 1}, write)
    error: Exception = OSError(number, os.strerror(number))
    if kind == "safetensors":  # its own type, neither OSError nor with an errno
        error = RuntimeError(f"Error while serializing: I/O error: {os.strerror(number)} (os error {number})")

    def refuse(directory: Path) -> None:
        write(directory)
        raise error

    with pytest.raises(CheckpointError, match=r"Make room and run the same command again") as caught:
        save_checkpoint(tmp_path, 2, {"step": 2}, refuse)
    assert FAULTS[number] in str(caught.value) and str(tmp_path) in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000001"]
    assert newest_checkpoint(tmp_path) == (good, {"step": 1}, ())


SAVE_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
import torch
from safetensors.torch import save_file
from deepscaler.training.checkpoint import CheckpointError, save_checkpoint

resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(Path(sys.argv[1]), 1, {}, lambda d: save_file({"x": torch.zeros(100_000)}, d / "x.safetensors"))
except CheckpointError as error:
    print(error)
"""


def test_a_real_limit_met_by_safetensors_is_one_message(tmp_path):
    command = [sys.executable, "-c", SAVE_UNDER_A_LIMIT, str(tmp_path / "checkpoints")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "checkpoint of step 1 was not written" in done.stdout and "beyond the size allowed" in done.stdout


def test_another_error_keeps_its_type(tmp_path):
    def fail(directory: Path) -> None:
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        save_checkpoint(tmp_path, 2, {"step": 2}, fail)


def edited(path: Path, change: Any) -> None:
    """A manifest as somebody or something rewrote it."""
    file = path / "manifest.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))


def without_weights(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest, "files": {n: v for n, v in manifest["files"].items() if n != "weights"}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda _: {}, "manifest.json is incomplete"),
        (lambda _: [], "manifest.json should hold a JSON object"),
        (lambda _: None, "should hold a JSON object"),
        (lambda m: {**m, "files": {}}, "manifest.json is incomplete"),
        (lambda m: {**m, "files": []}, "manifest.json is incomplete"),
        (without_weights, "manifest.json is incomplete"),
        (lambda m: m["files"], "written by an earlier version"),
    ],
)
def test_a_manifest_that_lists_less_than_was_saved_counts_as_damage(tmp_path, change, words):
    good = save_checkpoint(tmp_path, 1, {"step": 1}, write)
    newest = save_checkpoint(tmp_path, 2, {"step": 2}, write)
    edited(newest, change)
    (newest / "weights").write_bytes(b"others")
    found = newest_checkpoint(tmp_path)
    assert found is not None and found.path == good
    assert len(found.passed_over) == 1 and found.passed_over[0].startswith("step-000002: ")
    assert words in found.passed_over[0]


def test_brackets_without_end_are_damage(tmp_path):
    path = save_checkpoint(tmp_path, 1, {"step": 1}, write)
    for name in ("manifest.json", "state.json"):
        text = (path / name).read_text()
        (path / name).write_text("[" * 200_000)
        assert name in (find_damage(path) or "")
        (path / name).write_text(text)
    assert find_damage(path) is None


def test_what_has_another_name_is_no_checkpoint(tmp_path):
    save_checkpoint(tmp_path, 1, {"step": 1}, write)
    newest = save_checkpoint(tmp_path, 2, {"step": 2}, write)
    for name in ("step-000002.bak", "step-", "step-x", "step-000003 (copy)", "step-9", "step-\u0663", "step--00001"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-000009").write_text("a file")
    (newest / "notes.txt").write_text("somebody's own")
    (newest / "model.gguf").write_bytes(b"x")
    assert steps_in(tmp_path) == [1, 2]
    found = newest_checkpoint(tmp_path)
    assert found is not None and (found.path, found.passed_over) == (newest, ())
    save_checkpoint(tmp_path, 9, {"step": 9}, write)  # in the place of the file
    prune(tmp_path, 1, ())
    assert steps_in(tmp_path) == [9] and (tmp_path / "step-000002.bak").is_dir()


def test_the_checkpoint_of_a_step(tmp_path):
    for step in (1, 12):
        save_checkpoint(tmp_path, step, {"step": step}, write)
    assert read_checkpoint(tmp_path, 1).state == {"step": 1}
    with pytest.raises(ValueError, match="no checkpoint of step 7; steps with one: 1, 12"):
        read_checkpoint(tmp_path, 7)
    (tmp_path / "step-000012" / "weights").unlink()
    with pytest.raises(ValueError, match=r"step-000012 is damaged \(weights is missing\)"):
        read_checkpoint(tmp_path, 12)


def test_everything_has_reached_the_device_before_the_commit_and_the_name_after_it(tmp_path, monkeypatch):
    root, synced, at_commit = tmp_path / "run" / "checkpoints", [], []
    fsync, rename = os.fsync, Path.rename

    def recording(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    def committing(path: Path, target: Path) -> Path:
        at_commit.extend(synced)
        synced.clear()
        return rename(path, target)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(Path, "rename", committing)

    def write_nested(directory: Path) -> None:
        write(directory)
        (directory / "additional" / "deep").mkdir(parents=True)
        (directory / "additional" / "deep" / "template").write_text("x")

    save_checkpoint(root, 1, {"step": 1}, write_nested)
    inside = root / ".writing-000001"
    names = ["weights", "state.json", "manifest.json", "additional", "additional/deep", "additional/deep/template"]
    expected = {str(inside / name) for name in names} | {str(inside), str(root), str(root.parent)}
    assert expected <= set(at_commit)
    assert synced == [str(root)]


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
