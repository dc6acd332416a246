"""Compiled kernels are made by a child, whole or not at all, and found again only by what would make the same."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from deepscaler.cpu.kernels import disk_cache

SOURCE = disk_cache.KERNELS / "fused_ops.py"
# Exits 0 only where nothing was compiled by the process itself.
LOADS = (
    "from deepscaler.cpu.kernels import fused_ops as k; "
    "assert not sum(k.rms_norm.stats.cache_misses.values()) and sum(k.rms_norm.stats.cache_hits.values())"
)


def start(root: Path) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(disk_cache.KERNELS.parents[2]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, disk_cache.ROOT: str(root), "PYTHONPATH": path}
    return subprocess.Popen([sys.executable, "-c", LOADS], env=environment)


def until(condition, seconds: float = 100.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    return [int(x) for x in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
def test_a_killed_compilation_leaves_nothing_to_load_and_the_next_processes_make_it_once(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.ROOT, str(tmp_path))
    target, process = disk_cache.folder(SOURCE), start(tmp_path)
    until(lambda: any(tmp_path.glob(".*.building")) and children(process.pid))
    (child,) = children(process.pid)
    process.kill()
    process.wait(timeout=10)
    until(lambda: not Path(f"/proc/{child}").exists(), 10)
    assert not target.exists()
    both = [start(tmp_path) for _ in range(2)]
    assert [each.wait(timeout=200) for each in both] == [0, 0]
    assert target.is_dir() and not list(tmp_path.glob(".*.building"))
    made = target.stat().st_mtime_ns
    assert start(tmp_path).wait(timeout=100) == 0 and target.stat().st_mtime_ns == made


def test_a_compilation_that_fails_says_what_it_printed_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.ROOT, str(tmp_path))
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho LLVM ran out of registers\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(RuntimeError, match=r"fused_ops .*exit code 3.*LLVM ran out of registers"):
        disk_cache.ensure([SOURCE])
    assert not disk_cache.folder(SOURCE).exists() and not list(tmp_path.glob(".*.building"))


def test_the_folder_is_another_one_for_another_time_stamp_text_processor_or_place(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.ROOT, str(tmp_path))
    source = tmp_path / "kernels.py"
    source.write_text("x = 1\n")
    found = [disk_cache.folder(source), disk_cache.folder(source)]
    assert found[0] == found[1]
    os.utime(source, (1, 1))
    found.append(disk_cache.folder(source))
    source.write_text("x = 2\n")
    os.utime(source, (1, 1))
    found.append(disk_cache.folder(source))
    monkeypatch.setenv("NUMBA_CPU_NAME", "znver4")
    found.append(disk_cache.folder(source))
    (tmp_path / "other").mkdir()
    found.append(disk_cache.folder(source.rename(tmp_path / "other" / "kernels.py")))
    assert len(set(found)) == 5


def test_where_nothing_can_be_written_the_functions_live_as_long_as_the_process(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.ROOT, "unset again after the test")
    monkeypatch.delenv(disk_cache.ROOT)
    source = tmp_path / "kernels.py"
    for name in ("kernels.py", "__pycache__", "cache"):  # files, below which no folder can be made
        (tmp_path / name).write_text("x = 1\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(disk_cache.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    assert disk_cache.folder(source).parent == tmp_path
    assert os.environ[disk_cache.ROOT] == str(tmp_path)  # as worker processes will find it


def test_a_process_that_computes_refuses_what_it_would_have_to_compile(monkeypatch):
    monkeypatch.delenv(disk_cache.BUILDING, raising=False)
    disk_cache.check_loaded(SOURCE, hits=1)
    with pytest.raises(RuntimeError, match="remove that folder"):
        disk_cache.check_loaded(SOURCE, hits=0)
