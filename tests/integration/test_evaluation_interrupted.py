"""An evaluation that is killed, or whose disk fills up, loses no finished sample and ends with the same table."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from child_pythonpath import PYTHONPATH
from deepscaler.loop.evaluate import (
    evaluate_endpoint,
)
from deepscaler.types import RunError
from evaluation_jobs import REPLY, figures, job, table
from scripted_server import Script, ScriptedServer

KILLED = """
import os, pathlib, signal, sys
point, count = sys.argv[1], int(sys.argv[2])
from deepscaler.evaluation import finish, store
import evaluation_jobs as t
owner, name = {"sample": (store.SampleStore, "add"), "verdict": (store.SampleStore, "add_verdict"),
               "table": (finish, "write_rows")}[point]
original, calls = getattr(owner, name), 0
def dying(*arguments, **keywords):
    global calls
    result = original(*arguments, **keywords)
    calls += 1
    if calls == count:
        os.kill(os.getpid(), signal.SIGKILL)
    return result
setattr(owner, name, dying)
from deepscaler.loop.evaluate import evaluate_endpoint
evaluate_endpoint(sys.argv[3], "scripted", t.job(pathlib.Path(sys.argv[4]), "sampling.num_samples=2"))
"""


def test_killed_at_three_points_the_final_table_is_the_same(tmp_path: Path) -> None:
    with ScriptedServer(Script(REPLY)) as server:
        whole, killed = tmp_path / "whole", tmp_path / "killed"
        evaluate_endpoint(server.url, "scripted", job(whole, "sampling.num_samples=2"))
        server.bodies.clear()
        for point, count in (("sample", 40), ("verdict", 30), ("table", 1)):
            command = [sys.executable, "-c", KILLED, point, str(count), server.url, str(killed)]
            environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
            ended = subprocess.run(command, env=environment, timeout=200, capture_output=True, text=True)
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            assert not (killed / "results.json").exists()
        # A torn last line on top of it, as a power failure leaves it.
        journal = killed / "journal" / "completions.jsonl"
        journal.write_bytes(journal.read_bytes()[:-7])
        evaluate_endpoint(server.url, "scripted", job(killed, "sampling.num_samples=2"))
        # 160 samples, what was under way at the first kills, the torn one, and six probes for each start.
        assert len(server.bodies) <= 160 + 2 * 32 + 1 + 4 * 6
    assert table(killed) == table(whole) and figures(killed) == figures(whole)


@pytest.mark.parametrize("point", ["sample", "table"])
def test_a_full_disk_loses_no_finished_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str) -> None:
    import pyarrow.parquet as pq

    written, write = 0, os.pwrite

    def full_journal(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal written
        written += 1
        if written > 50:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data, offset)

    def full_table(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with ScriptedServer(Script(REPLY)) as server:
        with monkeypatch.context() as patch:
            if point == "sample":
                patch.setattr(os, "pwrite", full_journal)
            else:
                patch.setattr(pq, "ParquetWriter", full_table)
            with pytest.raises(RunError, match=r"(disk is full|No space left).*run the same command again"):
                evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
        assert not (tmp_path / "results.json").exists()
        results = evaluate_endpoint(server.url, "scripted", job(tmp_path, "sampling.num_samples=2"))
    resumed = results.content["run"]["resumed_samples"]
    assert resumed == 160 if point == "table" else 0 < resumed <= 50
