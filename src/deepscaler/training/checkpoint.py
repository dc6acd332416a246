"""Checkpoints that are either whole or not there: written beside, checksummed, fsynced, committed by one rename.

manifest.json lists size and SHA-256 of every file, and the SHA-256 of that list, so that a shortened list shows.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from deepscaler.json_text import canonical_digest
from deepscaler.observability.files import fingerprint, storage_fault
from deepscaler.observability.files import fsync as _fsync
from deepscaler.observability.run_directory import read_json
from deepscaler.types import RunError

STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
FORMAT = 2
_NAME = re.compile(r"step-([0-9]{6,})")


class CheckpointError(RunError):
    """A checkpoint could not be written or none can be read; earlier ones are untouched."""


class Checkpoint(NamedTuple):
    """One that passed its checksums. passed_over: newer ones that did not, `step-000012: why`."""

    path: Path
    state: dict[str, Any]
    passed_over: tuple[str, ...] = ()


def checkpoint_path(root: Path, step: int) -> Path:
    return root / f"step-{step:06d}"


def steps_in(root: Path) -> list[int]:
    """Steps of the checkpoints in a directory, rising; what has another name is none (a copy, a file of somebody's)."""
    found = (_NAME.fullmatch(path.name) for path in root.glob("step-*"))
    steps = {int(match[1]) for match in found if match}
    return sorted(step for step in steps if checkpoint_path(root, step).is_dir())


def save_checkpoint(root: Path, step: int, state: dict[str, Any], write: Callable[[Path], object]) -> Path:
    """Commit what `write` puts into a directory, together with `state` (JSON), as `root/step-NNNNNN`.

    Raises CheckpointError when the storage is full or refuses; the half-written directory is removed then.
    """
    with named_faults(root, step):
        write(begin_checkpoint(root, step))
        write_state(root, step, state)
        return commit_checkpoint(root, step)


def begin_checkpoint(root: Path, step: int) -> Path:
    """The empty directory to write into, hidden until it is committed. Removes what interrupted saves left."""
    root.mkdir(parents=True, exist_ok=True)
    remove_leftovers(root)
    temporary = _hidden(root, step)
    temporary.mkdir()
    return temporary


def write_state(root: Path, step: int, state: dict[str, Any]) -> None:
    (_hidden(root, step) / STATE_FILE).write_text(json.dumps(state, sort_keys=True) + "\n")


def commit_checkpoint(root: Path, step: int) -> Path:
    """Checksums and fsync of everything written since `begin_checkpoint`, then the rename."""
    temporary, target = _hidden(root, step), checkpoint_path(root, step)
    _write_manifest(temporary)
    inside = sorted(temporary.rglob("*"))
    for path in [*inside, temporary, root, root.parent]:
        _fsync(path)
    if target.exists():  # only one that failed its checksums, or was saved at the same step before, can be here
        _remove(target)
    temporary.rename(target)
    _fsync(root)
    return target


@contextmanager
def named_faults(root: Path, step: int) -> Iterator[None]:
    """Around the writing of a checkpoint: where it fails, its directory is removed, and the message names it."""
    try:
        yield
    except Exception as error:
        shutil.rmtree(_hidden(root, step), ignore_errors=True)
        fault = storage_fault(error)
        if fault is None and not isinstance(error, OSError):
            raise
        raise CheckpointError(
            f"checkpoint of step {step} was not written to {root}: {fault or error} ({_free_space(root)}). Earlier "
            "checkpoints are whole. Make room and run the same command again; it continues from the newest one"
        ) from error


def newest_checkpoint(root: Path) -> Checkpoint | None:
    """The newest checkpoint that passes its checksums; None when there is none.

    Raises CheckpointError when there are checkpoints but every one is damaged.
    """
    problems: list[str] = []
    for step in reversed(steps_in(root)):
        path = checkpoint_path(root, step)
        damage = find_damage(path)
        if damage is None:
            return Checkpoint(path, read_state(path), tuple(problems))
        problems.append(f"{path.name}: {damage}")
    if problems:
        raise CheckpointError(
            f"every checkpoint in {root} is damaged ({'; '.join(problems)}); move the run directory away to start anew"
        )
    return None


def read_checkpoint(root: Path, step: int) -> Checkpoint:
    """The checkpoint of a step. Raises ValueError when there is none or it is damaged."""
    path, steps = checkpoint_path(root, step), steps_in(root)
    if step not in steps:
        there = ", ".join(map(str, steps)) or "none"
        raise ValueError(f"{root} holds no checkpoint of step {step}; steps with one: {there}")
    damage = find_damage(path)
    if damage is not None:
        raise ValueError(f"{path} is damaged ({damage}); steps with a checkpoint: {', '.join(map(str, steps))}")
    return Checkpoint(path, read_state(path))


def read_state(path: Path) -> dict[str, Any]:
    """What `save_checkpoint` was given as state. Raises ValueError for a file that holds none."""
    state = read_json(path / STATE_FILE)
    if state is None:
        raise ValueError(f"{path} holds no {STATE_FILE}")
    return state


def read_listed(path: Path, name: str) -> dict[str, Any] | None:
    """A JSON file of a checkpoint, None where it is absent or no longer what the manifest says of it.

    For a first look; only `newest_checkpoint` looks at all files.
    """
    try:
        files = (read_json(path / MANIFEST_FILE) or {}).get("files")
        if not isinstance(files, dict) or name not in files or _describe(path / name) != files[name]:
            return None
        return read_json(path / name)
    except (OSError, ValueError):
        return None


def find_damage(path: Path) -> str | None:
    """The fault of a checkpoint, in words; None when every file has its recorded size and SHA-256.

    Files that the manifest does not list are somebody's own and are left alone.
    """
    try:
        manifest = read_json(path / MANIFEST_FILE)
        state = read_json(path / STATE_FILE)
    except (OSError, ValueError) as error:
        return f"unreadable: {error}"
    if manifest is None:
        return f"{MANIFEST_FILE} is missing"
    if "format" not in manifest and isinstance(manifest.get(STATE_FILE), dict):
        return "written by an earlier version, whose checkpoints this one does not continue; finish it with that one"
    files = manifest.get("files")
    if (
        not isinstance(files, dict)
        or manifest.get("sha256") != canonical_digest(files)
        or manifest.get("format") != FORMAT
    ):
        return f"{MANIFEST_FILE} is incomplete or was edited"
    if state is None or STATE_FILE not in files:
        return f"{STATE_FILE} is missing"
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if _describe(file) != expected:
            return f"{name} differs from its checksum"
    return None


def prune(root: Path, keep: int, protected: Collection[int]) -> None:
    """Remove all but the newest `keep` checkpoints and those of the protected steps."""
    for step in steps_in(root)[:-keep]:
        if step not in protected:
            _remove(checkpoint_path(root, step))


def remove_leftovers(root: Path) -> None:
    """Clear what an interrupted save or removal left behind."""
    for pattern in (".writing-*", ".removing-*"):
        for path in root.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def _hidden(root: Path, step: int) -> Path:
    return root / f".writing-{step:06d}"


def _remove(path: Path) -> None:
    """Out of sight by one rename first, so that a crash never leaves half a checkpoint under its name."""
    hidden = path.with_name(f".removing-{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    if hidden.is_dir():
        shutil.rmtree(hidden)
    else:
        hidden.unlink()


def _write_manifest(directory: Path) -> None:
    found = sorted(p for p in directory.rglob("*") if p.is_file())
    files = {str(p.relative_to(directory)): _describe(p) for p in found}
    manifest = {"format": FORMAT, "files": files, "sha256": canonical_digest(files)}
    (directory / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n")


def _describe(path: Path) -> dict[str, Any]:
    found = fingerprint(path)
    return {"bytes": found.num_bytes, "sha256": found.sha256}


def _free_space(root: Path) -> str:
    try:
        return f"{shutil.disk_usage(root).free // 2**20} MiB free"
    except OSError:
        return "free space unknown"
