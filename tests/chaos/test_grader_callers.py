"""A grader pool works from wherever it is called, with whatever text, for as long as a run lasts."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from child_pythonpath import PYTHONPATH
from deepscaler.rewards.isolation.pool import GraderPool
from deepscaler.rewards.isolation.process import Limits
from deepscaler.types import GradeItem, Outcome

LIMITS = Limits(wall_s=60.0, cpu_s=2.0, memory_mib=1024)


def box(answer: str) -> str:
    return f"so</think>\\boxed{{{answer}}}"


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(num_workers=2, limits=LIMITS) as made:
        yield made


def verdicts(pool: GraderPool, answers: list[str]) -> list[str]:
    return [v.outcome.value for v in pool.grade([GradeItem(box(a), ["7"], True) for a in answers])]


async def grade_concurrently(pool: GraderPool) -> list[list[str]]:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0.001)

    ticking = asyncio.create_task(tick())
    results = await asyncio.gather(*(asyncio.to_thread(verdicts, pool, ["7", "8"] * 50) for _ in range(8)))
    ticking.cancel()
    assert ticks > 1, "the event loop stood still while the pool graded"
    return results


def test_from_asyncio_without_blocking_its_loop(pool: GraderPool) -> None:
    assert asyncio.run(grade_concurrently(pool)) == [["correct", "wrong"] * 50] * 8


def test_from_several_threads_at_once(pool: GraderPool) -> None:
    results: dict[int, list[str]] = {}
    threads = [
        threading.Thread(target=lambda i=i: results.update({i: verdicts(pool, ["7", "x", "07"] * (10 + i))}))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == {i: ["correct", "wrong", "correct"] * (10 + i) for i in range(8)}


def _grade_and_send(end: Connection) -> None:
    with GraderPool(num_workers=1, limits=LIMITS) as pool:
        end.send(verdicts(pool, ["7", "8"]))


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_from_a_daemonic_process_which_may_have_no_children_of_multiprocessing(method: str) -> None:
    context: Any = multiprocessing.get_context(method)
    ours, theirs = context.Pipe()
    process = context.Process(target=_grade_and_send, args=(theirs,), daemon=True)
    process.start()
    assert ours.poll(120)
    assert ours.recv() == ["correct", "wrong"]
    process.join(60)
    assert process.exitcode == 0


def test_limits_hold_for_a_caller_that_blocks_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPROF, signal.SIGTERM})
    try:
        limits = Limits(wall_s=60, cpu_s=0.2, memory_mib=1024)
        with GraderPool(num_workers=1, limits=limits, grader="faulty_graders:misbehave") as pool:
            verdict = pool.grade([GradeItem("spin", ["7"], thinking_prefilled=True)])[0]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    assert "of processor time" in verdict.detail


def test_a_pool_that_came_along_in_a_fork_is_refused_and_the_parents_goes_on(pool: GraderPool) -> None:
    assert verdicts(pool, ["7"]) == ["correct"]
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # later Pythons warn of forks with threads, which is what is tried here
        child = os.fork()
    if child == 0:
        try:
            pool.grade([GradeItem(box("7"), ["7"], thinking_prefilled=True)])
        except ValueError as error:
            os.write(write, str(error).encode())
        pool.close()
        os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as words:
        assert "belongs to the parent" in words.read()
    assert verdicts(pool, ["7"] * 9) == ["correct"] * 9


@pytest.mark.parametrize(
    "text",
    [
        "\ud800\udfff \udcff",
        "\0",
        "a\nb\r\n\u2028\x85c",
        "\x1b[2J",
        "\U0001f600" * 1000,
        '"]}\n[1,',
        "\\\\",
        "\ufeff7",
    ],
)
def test_any_text_can_be_graded(pool: GraderPool, text: str) -> None:
    one, other = pool.grade([GradeItem(box(text), [text, "7"], True), GradeItem(box("7"), ["7"], True)])
    assert one.outcome in (Outcome.CORRECT, Outcome.WRONG), one
    assert other.outcome is Outcome.CORRECT
    assert pool.grade([GradeItem(text, [text], thinking_prefilled=False)])[0].outcome in (
        Outcome.NO_ANSWER,
        Outcome.BAD_REFERENCE,
    )


def test_ten_megabytes_of_answer_thoughts_or_reference_hurt_nobody(pool: GraderPool) -> None:
    large = "7" * 10_000_000
    items = [
        GradeItem(box("7"), ["7"], True),
        GradeItem(box(large), ["7"], True),
        GradeItem(large + "</think>\\boxed{7}", ["7"], True),
        GradeItem(large, ["7"], True),
        GradeItem(box("\U0001f600" * 2_500_000), ["7"], True),
        GradeItem(box("7"), [large], True),
        GradeItem(box("8"), ["7"], True),
    ]
    assert [v.outcome.value for v in pool.grade(items)] == [
        "correct",
        "wrong",
        "correct",
        "no_answer",
        "wrong",
        "wrong",
        "wrong",
    ]


def test_closing_ends_a_grading_under_way_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    pool = GraderPool(num_workers=1, limits=LIMITS, grader="faulty_graders:misbehave")
    pool.grade([GradeItem("warm", ["7"], thinking_prefilled=True)])
    raised: list[Exception] = []

    def wait_for_ever() -> None:
        try:
            pool.grade([GradeItem("hang", ["7"], thinking_prefilled=True)])
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=wait_for_ever)
    thread.start()
    time.sleep(0.1)
    start = time.monotonic()
    pool.close()
    thread.join(30)
    assert time.monotonic() - start < 20  # not the 60 s that the grading could have taken
    assert [type(e) for e in raised] == [ValueError]


def test_memory_stays_flat_over_a_hundred_thousand_verdicts() -> None:
    """Resident memory of owner and grading process, all answers different, one in twenty not a plain number."""
    with GraderPool(num_workers=1, limits=LIMITS) as pool:

        def grade(start: int, count: int) -> None:
            answers = [f"{n}" if n % 20 else f"\\frac{{{n}}}{{7}}" for n in range(start, start + count)]
            assert len(pool.grade([GradeItem(box(a), ["7"], True) for a in answers])) == count

        grade(0, 120_000)  # the caches of 8,192 verdicts and 4,096 readings fill first
        before = _resident_mib()
        for start in range(120_000, 220_000, 10_000):
            grade(start, 10_000)
        assert _resident_mib() - before < 8


def _resident_mib() -> float:
    """Of this process and all below it: supervisors and grading processes."""
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in ["self", *_descendants(os.getpid())]]
    return sum(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def _descendants(pid: int) -> list[str]:
    children = [c for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()]
    return [pid for child in children for pid in (child, *_descendants(int(child)))]
