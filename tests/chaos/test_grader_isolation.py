"""Whatever grading does to its process, every other verdict stands and nothing waits for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from deepscaler.rewards.pool import GraderPool
from deepscaler.types import FinishReason, Group, Outcome, Problem, Rollout, RunError, Verdict

HERE = Path(__file__).parent


def make_pool(grader: str = "faulty_graders:misbehave", num_workers: int = 1, memory_mib: int = 1024) -> GraderPool:
    return GraderPool(
        num_workers=num_workers,
        wall_s=1.0,
        memory_mib=memory_mib,
        decode=lambda ids: " ".join(map(str, ids)),
        thinking_prefilled=True,
        grader=grader,
    )


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraderPool]:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    with make_pool() as made:
        yield made


def outcomes(pool: GraderPool, completions: list[str]) -> list[Outcome]:
    return [v.outcome for v in pool.grade_many([(c, ["7"], True) for c in completions])]


@pytest.mark.parametrize(
    ("bomb", "outcome"),
    [
        ("hang", Outcome.TIMEOUT),
        ("die", Outcome.GRADER_FAILED),
        ("raise", Outcome.GRADER_FAILED),
        ("eat", Outcome.GRADER_FAILED),
        ("recurse", Outcome.GRADER_FAILED),
        ("print", Outcome.CORRECT),
    ],
)
def test_a_bomb_costs_its_own_verdict_only(pool: GraderPool, bomb: str, outcome: Outcome) -> None:
    fine = Outcome.CORRECT
    assert outcomes(pool, ["a", "b", bomb, "c", bomb, "d"]) == [fine, fine, outcome, fine, outcome, fine]


def test_the_worker_is_replaced_after_a_timeout_and_kept_otherwise(pool: GraderPool) -> None:
    first = pool.grade("pid", ["7"], thinking_prefilled=True).answer
    assert pool.grade("pid", ["7"], thinking_prefilled=True).answer == first
    verdict = pool.grade("hang", ["7"], thinking_prefilled=True)
    assert verdict.outcome is Outcome.TIMEOUT
    assert "within 1 s" in verdict.detail
    assert pool.grade("pid", ["7"], thinking_prefilled=True).answer != first


def test_no_secret_reaches_the_worker_and_it_writes_no_file(pool: GraderPool, tmp_path: Path) -> None:
    names = pool.grade("environment", ["7"], thinking_prefilled=True).answer
    assert names is not None and "SECRET_TOKEN" not in names and "HOME" not in names.split(",")
    verdict = pool.grade(f"write:{tmp_path}/out", ["7"], thinking_prefilled=True)
    assert verdict.outcome is Outcome.GRADER_FAILED
    assert (tmp_path / "out").read_text() == ""


def test_large_batches_do_not_block(pool: GraderPool) -> None:
    assert outcomes(pool, ["x" * 100_000] * 100) == [Outcome.CORRECT] * 100


def test_many_threads_share_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    results: dict[int, list[Outcome]] = {}
    with make_pool(num_workers=2) as pool:
        threads = [
            threading.Thread(target=lambda i=i: results.update({i: outcomes(pool, ["a", "raise", "b"] * 20)}))
            for i in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    expected = [Outcome.CORRECT, Outcome.GRADER_FAILED, Outcome.CORRECT] * 20
    assert results == dict.fromkeys(range(6), expected)


def test_a_worker_that_cannot_start_is_an_error_with_a_remedy() -> None:
    with make_pool("no_such_module:grade") as pool, pytest.raises(RunError, match=r"did not start: .*no_such_module"):
        pool.grade("a", ["7"], thinking_prefilled=True)


def test_closing_ends_the_process_and_refuses_work(pool: GraderPool) -> None:
    pid = int(pool.grade("pid", ["7"], thinking_prefilled=True).answer or 0)
    pool.close()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(ValueError, match="closed"):
        pool.grade("a", ["7"], thinking_prefilled=True)


def test_the_worker_dies_with_a_killed_parent() -> None:
    program = f"""
import sys, threading, time
sys.path.insert(0, {str(HERE)!r})
from test_grader_isolation import make_pool
pool = make_pool()
print(pool.grade("pid", ["7"], thinking_prefilled=True).answer, flush=True)
threading.Thread(target=lambda: pool.grade("hang", ["7"], thinking_prefilled=True), daemon=True).start()
time.sleep(0.3)
__import__("os").kill(__import__("os").getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    deadline = time.monotonic() + 20
    while _running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(pid)


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_truncated_rollout_earns_nothing_and_is_not_graded() -> None:
    def rollout(index: int, reason: FinishReason) -> Rollout:
        ids = np.array([7], np.int32)
        return Rollout("p", index, ids, ids, np.zeros(1, np.float32), reason, 0)

    group = Group(Problem("p", "?", ("7",)), (rollout(0, FinishReason.LENGTH), rollout(1, FinishReason.STOP)))
    pool = GraderPool(
        num_workers=1,
        wall_s=5,
        memory_mib=1024,
        decode=lambda ids: "</think>\\boxed{7}",
        thinking_prefilled=True,
    )
    with pool:
        (scored,) = pool.score([group])
    assert [v.outcome for v in scored.verdicts] == [Outcome.TRUNCATED, Outcome.CORRECT]
    assert scored.rewards.tolist() == [0.0, 1.0]
    assert scored.texts == ("</think>\\boxed{7}",) * 2
    assert isinstance(scored.verdicts[0], Verdict)
