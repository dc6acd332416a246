"""Whatever grading does to its process, every other verdict stands and nothing waits for ever."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from child_pythonpath import PYTHONPATH
from deepscaler.rewards.isolation.pool import GraderPool
from deepscaler.rewards.isolation.process import Limits
from deepscaler.rewards.scoring import items_of, scored
from deepscaler.types import FinishReason, GradeItem, Group, Outcome, Problem, Rollout, RunError, ScoredGroup

HERE = Path(__file__).parent

# Waiting is generous, since the machine may be busy; processor time is counted per process and may be short.
LIMITS = Limits(wall_s=60.0, cpu_s=0.5, memory_mib=512)
SHORT_WAIT = Limits(wall_s=4.0, cpu_s=0.5, memory_mib=512)


def make_pool(grader: str = "faulty_graders:misbehave", num_workers: int = 1, limits: Limits = LIMITS) -> GraderPool:
    return GraderPool(num_workers=num_workers, limits=limits, grader=grader)


@pytest.fixture(scope="module")
def shared_pool() -> Iterator[GraderPool]:
    """One supervisor for the whole file: it survives everything that the grading processes do."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
        monkeypatch.setenv("SECRET_TOKEN", "hunter2")
        with make_pool() as made:
            made.grade([GradeItem("start it now", ["7"], thinking_prefilled=True)])
            yield made


@pytest.fixture
def pool(shared_pool: GraderPool) -> GraderPool:
    return shared_pool


@pytest.fixture
def impatient_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraderPool]:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    with make_pool(limits=SHORT_WAIT) as made:
        yield made


@pytest.fixture
def own_pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[GraderPool]:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    with make_pool() as made:
        yield made


def outcomes(pool: GraderPool, completions: list[str]) -> list[Outcome]:
    return [v.outcome for v in pool.grade([GradeItem(c, ["7"], True) for c in completions])]


@pytest.mark.parametrize(
    ("bomb", "outcome"),
    [
        ("spin", Outcome.TIMEOUT),
        ("long", Outcome.TIMEOUT),
        ("die", Outcome.GRADER_FAILED),
        ("segfault", Outcome.GRADER_FAILED),
        ("hoard", Outcome.GRADER_FAILED),
        ("raise", Outcome.GRADER_FAILED),
        ("eat", Outcome.GRADER_FAILED),
        ("recurse", Outcome.GRADER_FAILED),
        ("print", Outcome.CORRECT),
    ],
)
def test_a_bomb_costs_its_own_verdict_only(pool: GraderPool, bomb: str, outcome: Outcome) -> None:
    fine = Outcome.CORRECT
    assert outcomes(pool, ["a", "b", bomb, "c", bomb, "d"]) == [fine, fine, outcome, fine, outcome, fine]


def test_a_grader_that_sleeps_is_ended_by_the_wall_clock(impatient_pool: GraderPool) -> None:
    assert outcomes(impatient_pool, ["a", "hang", "b"]) == [Outcome.CORRECT, Outcome.TIMEOUT, Outcome.CORRECT]
    verdict = impatient_pool.grade([GradeItem("hang", ["7"], True)])[0]
    assert "within 4 s" in verdict.detail and verdict.seconds >= 4


@pytest.mark.parametrize(
    ("bomb", "words"),
    [
        ("spin", "over 0.5 s of processor time"),
        ("long", "over 0.5 s of processor time"),
        ("die", "exit status 3"),
        ("segfault", "killed by SIGSEGV"),
        ("hoard", "MemoryError"),
    ],
)
def test_the_verdict_says_what_happened_and_the_process_is_replaced(pool: GraderPool, bomb: str, words: str) -> None:
    before = pool.grade([GradeItem("pid", ["7"], thinking_prefilled=True)])[0].answer
    assert pool.grade([GradeItem("pid", ["7"], thinking_prefilled=True)])[0].answer == before
    assert re.search(words, pool.grade([GradeItem(bomb, ["7"], thinking_prefilled=True)])[0].detail)
    assert pool.grade([GradeItem("pid", ["7"], thinking_prefilled=True)])[0].answer != before


@pytest.mark.parametrize("who", ["pid", "supervisor"])
def test_what_is_killed_from_outside_while_idle_costs_no_verdict(pool: GraderPool, who: str) -> None:
    pid = int(pool.grade([GradeItem(who, ["7"], thinking_prefilled=True)])[0].answer or 0)
    os.kill(pid, signal.SIGKILL)
    assert _gone(pid)
    assert outcomes(pool, ["a", "b"]) == [Outcome.CORRECT] * 2
    assert int(pool.grade([GradeItem(who, ["7"], thinking_prefilled=True)])[0].answer or 0) != pid


def test_a_thousand_replaced_processes_leave_nothing_behind(pool: GraderPool) -> None:
    outcomes(pool, ["a"])
    descriptors = _descriptors("self")
    threads, processes = threading.active_count(), _children(os.getpid())
    assert outcomes(pool, ["die", "a"] * 1000) == [Outcome.GRADER_FAILED, Outcome.CORRECT] * 1000
    supervisor = int(pool.grade([GradeItem("supervisor", ["7"], thinking_prefilled=True)])[0].answer or 0)
    assert _descriptors("self") == descriptors
    assert _descriptors(supervisor) < 10
    assert threading.active_count() == threads
    assert _children(supervisor) == 1  # the one at work: no zombie, no orphan
    assert _children(os.getpid()) == processes


def test_no_secret_reaches_the_worker_and_it_writes_no_file(pool: GraderPool, tmp_path: Path) -> None:
    names = pool.grade([GradeItem("environment", ["7"], thinking_prefilled=True)])[0].answer
    assert names is not None and "SECRET_TOKEN" not in names and "HOME" not in names.split(",")
    verdict = pool.grade([GradeItem(f"write:{tmp_path}/out", ["7"], thinking_prefilled=True)])[0]
    assert verdict.outcome is Outcome.GRADER_FAILED and "opens no file for writing" in verdict.detail
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("act", ["run", "dial", "fork"])
def test_the_worker_starts_no_process_and_opens_no_connection(pool: GraderPool, act: str) -> None:
    verdict = pool.grade([GradeItem(act, ["7"], thinking_prefilled=True)])[0]
    assert verdict.outcome is Outcome.GRADER_FAILED and "PermissionError" in verdict.detail


def test_large_batches_do_not_block(pool: GraderPool) -> None:
    assert outcomes(pool, ["x" * 100_000] * 100) == [Outcome.CORRECT] * 100


def test_many_threads_share_one_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
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
        pool.grade([GradeItem("a", ["7"], thinking_prefilled=True)])


def test_closing_ends_the_process_and_refuses_work(own_pool: GraderPool) -> None:
    pool = own_pool
    pid = int(pool.grade([GradeItem("pid", ["7"], thinking_prefilled=True)])[0].answer or 0)
    pool.close()
    assert _gone(pid)
    with pytest.raises(ValueError, match="closed"):
        pool.grade([GradeItem("a", ["7"], thinking_prefilled=True)])


def test_the_worker_dies_with_a_killed_parent() -> None:
    program = f"""
import sys, threading, time
sys.path.insert(0, {str(HERE)!r})
from test_grader_isolation import GradeItem, make_pool
pool = make_pool()
print(pool.grade([GradeItem("pid", ["7"], True)])[0].answer, flush=True)
threading.Thread(target=lambda: pool.grade([GradeItem("hang", ["7"], True)]), daemon=True).start()
time.sleep(0.3)
__import__("os").kill(__import__("os").getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    assert _gone(pid)


def _descriptors(pid: int | str) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def _children(parent: int) -> int:
    return sum(_parent(int(p.name)) == parent for p in Path("/proc").iterdir() if p.name.isdigit())


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def _gone(pid: int) -> bool:
    deadline = time.monotonic() + 20
    while _running(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not _running(pid)


def _running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def scored_groups(profile: str, text: str, *problems: Problem) -> list[ScoredGroup]:
    """Two completions of each problem, the first cut at its budget, graded by a pool as a run makes it."""
    ids = np.array([7], np.int32)
    reasons = (FinishReason.LENGTH, FinishReason.STOP)
    rollouts = tuple(Rollout("p", i, ids, ids, np.zeros(1, np.float32), reason, 0) for i, reason in enumerate(reasons))
    limits = Limits(wall_s=60, cpu_s=1, memory_mib=1024)
    groups = [Group(problem, rollouts) for problem in problems]
    items = items_of(groups, lambda ids: text, thinking_prefilled=True)
    with GraderPool(num_workers=1, limits=limits, profile=profile) as pool:
        return scored(groups, items, pool.grade(items))


def test_a_truncated_rollout_earns_nothing_and_is_not_graded() -> None:
    (group,) = scored_groups("deepscaler", "</think>\\boxed{7}", Problem("p", "?", ("7",)))
    assert [v.outcome for v in group.verdicts] == [Outcome.TRUNCATED, Outcome.CORRECT]
    assert group.rewards.tolist() == [0.0, 1.0]
    assert group.texts == ("</think>\\boxed{7}",) * 2


def test_a_problem_brings_its_tolerance_and_no_other_has_one() -> None:
    exact, near = Problem("a", "?", ("0.5",)), Problem("b", "?", ("0.5",), tolerance=0.1)
    groups = scored_groups("deepscaler", "</think>\\boxed{0.51}", exact, near, exact)
    assert [g.verdicts[1].outcome for g in groups] == [Outcome.WRONG, Outcome.CORRECT, Outcome.WRONG]


def test_the_profile_decides_what_equal_means() -> None:
    problem = Problem("p", "?", ("0.5",))
    for profile, outcome in (("deepscaler", Outcome.CORRECT), ("string", Outcome.WRONG)):
        (group,) = scored_groups(profile, "</think>\\boxed{1/2}", problem)
        assert group.verdicts[1].outcome is outcome
