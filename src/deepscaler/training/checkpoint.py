"""Checkpoints that are either whole or not there: written beside, checksummed, fsynced, committed by one rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from deepscaler.json_text import parse_json
from deepscaler.types import RunError

STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"


class CheckpointError(RunError):
    """A checkpoint could not be written or none can be read; earlier ones are untouched."""


def checkpoint_path(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def save_checkpoint(root: Path, step: int, state: dict[str, Any], write: Callable[[Path], None]) -> Path:
    """Commit what `write` puts into a directory, together with `state` (JSON), as `root/step-NNNNNN`.

    Raises CheckpointError when the disk is full or refuses; the half-written directory is removed then.
    """
    root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root)
    temporary = root / f".writing-{step:06d}"
    try:
        temporary.mkdir()
        write(temporary)
        (temporary / STATE_FILE).write_text(json.dumps(state, sort_keys=True) + "\n")
        files = sorted(p for p in temporary.rglob("*") if p.is_file())
        manifest = {str(p.relative_to(temporary)): _describe(p) for p in files}
        (temporary / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n")
        for path in [*files, temporary / MANIFEST_FILE, temporary]:
            _fsync(path)
        target = checkpoint_path(root, step)
        if target.exists():  # only one that failed its checksums can stand here
            _remove(target)
        temporary.rename(target)
        _fsync(root)
        return target
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        # safetensors reports a full disk as its own error type, with the system's words in the message.
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
        if not full and not isinstance(error, OSError):
            raise
        free = shutil.disk_usage(root).free // 2**20
        what = "the disk is full" if full else str(error)
        raise CheckpointError(
            f"checkpoint of step {step} was not written to {root}: {what} ({free} MiB free). Earlier checkpoints are "
            "whole. Make room and run the same command again; it continues from the newest one"
        ) from error


def newest_checkpoint(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that passes its checksums, with its state; None when there is none.

    Raises CheckpointError when there are checkpoints but every one is damaged.
    """
    candidates = sorted(root.glob("step-*"), key=step_of, reverse=True)
    problems: list[str] = []
    for path in candidates:
        damage = find_damage(path)
        if damage is None:
            return path, parse_json((path / STATE_FILE).read_text())
        problems.append(f"{path.name}: {damage}")
    if problems:
        raise CheckpointError(
            f"every checkpoint in {root} is damaged ({'; '.join(problems)}); move the run directory away to start anew"
        )
    return None


def find_damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, in words; None when every file has its recorded size and SHA-256."""
    try:
        manifest = parse_json((path / MANIFEST_FILE).read_text())
    except (OSError, ValueError) as error:
        return f"unreadable {MANIFEST_FILE} ({error})"
    for name, expected in manifest.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if _describe(file) != expected:
            return f"{name} differs from its checksum"
    return None


def prune(root: Path, keep: int, protected: Collection[int]) -> None:
    """Remove all but the newest `keep` checkpoints and those of the protected steps."""
    steps = sorted(step_of(p) for p in root.glob("step-*"))
    for step in steps[:-keep]:
        if step not in protected:
            _remove(checkpoint_path(root, step))


def remove_leftovers(root: Path) -> None:
    """Clear what an interrupted save or removal left behind."""
    for pattern in (".writing-*", ".removing-*"):
        for path in root.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _remove(path: Path) -> None:
    """Out of sight by one rename first, so that a crash never leaves half a checkpoint under its name."""
    hidden = path.with_name(f".removing-{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden)


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
