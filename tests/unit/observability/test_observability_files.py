"""Files that are whole or absent, on the device as well; faults of the storage in words; what killed processes left."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from deepscaler.observability.files import fingerprint, remove_temporaries, storage_fault, write_atomically


def test_content_reaches_the_device_before_the_name_and_the_name_before_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def recording(descriptor: int) -> None:
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    def renaming(path: Path, target: Path) -> Path:
        events.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", recording)
    monkeypatch.setattr(Path, "replace", renaming)
    write_atomically(tmp_path / "file", lambda path: path.write_text("new"))
    assert events == [f".file.{os.getpid()}.tmp", "rename", tmp_path.name]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS])
def test_faults_of_the_storage_are_told_from_others(number: int) -> None:
    words = storage_fault(OSError(number, os.strerror(number)))
    assert words
    assert storage_fault(RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")) == words
    assert storage_fault(RuntimeError(f"IoError(Os {{ code: {number}, kind: Other }})")) == words  # safetensors 0.5


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EACCES, "Permission denied"), RuntimeError("os error"), ValueError("(os error 2)"), OSError()],
)
def test_what_is_no_fault_of_the_storage(error: Exception) -> None:
    assert storage_fault(error) is None


@pytest.mark.parametrize("number", [errno.EFBIG, errno.EIO])
def test_a_failed_write_names_the_file_that_was_to_be_written(tmp_path: Path, number: int) -> None:
    def fail(temporary: Path) -> None:
        raise OSError(number, os.strerror(number))  # as pyarrow does, without a name

    with pytest.raises(OSError, match=r"rollouts\.parquet") as caught:
        write_atomically(tmp_path / "rollouts.parquet", fail)
    assert caught.value.errno == number
    assert list(tmp_path.iterdir()) == []


def test_only_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    for name in (".step-000003.parquet.4711.tmp", ".recipe.json.1.tmp"):
        (tmp_path / name).write_text("half")
    (tmp_path / ".folder.12.tmp").mkdir()
    (tmp_path / ".folder.12.tmp" / "inside").write_text("half")
    kept = {".lock", ".notes.tmp", "x.5.tmp", "step-000003.parquet", "..tmp"}
    for name in kept:
        (tmp_path / name).write_text("whole")
    remove_temporaries(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == kept
    remove_temporaries(tmp_path / "absent")


def test_a_fingerprint_of_the_beginning_ignores_what_follows(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 3_000_000)
    before = fingerprint(file)
    with file.open("ab") as appended:
        appended.write(b"more")
    assert fingerprint(file, before.num_bytes) == before != fingerprint(file)
    assert fingerprint(file, 10**9).num_bytes == 3_000_004
