"""A run on two ranks that torchrun started is the run of one machine, also after one of them was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from deepscaler.cluster.torchrun_environment import Rank, check_size, refuse_ranks, require_torchrun
from deepscaler.observability.run_directory import read_rollouts
from tiny_run import deepscaler, write_recipe

LIMIT_S = 120.0


@contextmanager
def started(recipe: Path, run_dir: Path, num_steps: int) -> Iterator[subprocess.Popen[str]]:
    """`torchrun … train` on two ranks."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "deepscaler"]
    arguments = ["train", str(recipe), "--run-dir", str(run_dir)]
    settings = [f"num_steps={num_steps}", "cluster.kind=torchrun"]
    command = [sys.executable, *launcher, *arguments, *(part for each in settings for part in ("--set", each))]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, errors="replace"
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=10)


def environment_of(pid: int) -> dict[str, str]:
    try:
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return {}
    return dict(pair.split("=", 1) for pair in pairs if "=" in pair)


def ranks_of(job: int) -> dict[int, int]:
    """Rank -> process id of the processes that this torchrun started."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        variables = environment_of(int(stat.parent.name)) if int(parent) == job and state != "Z" else {}
        if "RANK" in variables:
            found[int(variables["RANK"])] = int(stat.parent.name)
    return found


def until(what: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not what() and time.monotonic() < deadline:
        if process.poll() is not None:
            pytest.fail(f"torchrun ended: {process.communicate()[0][-2000:]}")
        time.sleep(0.05)
    assert what()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_two_ranks_of_which_one_is_killed_do_what_one_machine_does(tmp_path: Path) -> None:
    recipe, run_dir = write_recipe(tmp_path), tmp_path / "ranks"
    with started(recipe, run_dir, 100_000) as process:
        until((run_dir / "checkpoints" / "step-000002").exists, process)
        ranks = ranks_of(process.pid)
        assert sorted(ranks) == [0, 1]
        os.kill(ranks[1], signal.SIGUSR1)
        stacks = run_dir / "workers" / "learner-rank-1.log"
        until(lambda: "torchrun.py" in stacks.read_text(), process)
        os.kill(ranks[1], signal.SIGKILL)
        said, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode != 0
        assert "learner rank 1 died" in said and f"its last lines ({stacks})" in said
        assert not any(map(is_running, ranks.values()))
    assert not (run_dir / "weights").exists()

    last = int(max((run_dir / "checkpoints").glob("step-*")).name.removeprefix("step-")) + 1
    with started(recipe, run_dir, last) as process:
        said, _ = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, said
        assert "continuing after step" in said
    local = deepscaler(
        "train", recipe, "--run-dir", tmp_path / "local", "--set", f"num_steps={last}", timeout_s=LIMIT_S
    )
    assert local.returncode == 0, local.stderr
    for step in range(1, last + 1):
        rows = [
            read_rollouts(tmp_path / run / "rollouts" / f"step-{step:06d}.parquet").to_pydict()
            for run in ("local", "ranks")
        ]
        assert sorted(rows[0]["problem_id"]) == sorted(rows[1]["problem_id"])
    weights = [
        load_file(tmp_path / run / "checkpoints" / f"step-{last:06d}" / "model.safetensors")
        for run in ("local", "ranks")
    ]
    torch.testing.assert_close(weights[0], weights[1], atol=1e-5, rtol=0.0)


def test_other_starts_and_sizes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    refuse_ranks()
    with pytest.raises(ValueError, match="needs processes that torchrun started"):
        require_torchrun()
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="torchrun started 2 processes"):
        refuse_ranks()
    rank = Rank(0, 8, 0, 8, "localhost")
    with pytest.raises(ValueError, match="--nproc-per-node 4"):
        check_size(rank, 64, 4)
    with pytest.raises(ValueError, match="8 ranks share updates of 6 completions"):
        check_size(rank, 6, None)
    with pytest.raises(ValueError, match=r"8 ranks cannot work in groups of training\.context_parallel = 3"):
        check_size(rank, 64, None, 3)
    check_size(rank, 8, 8)
    check_size(rank, 4, 8, 2)
