"""A checkpoint that is written in the background is the newest one only when all of it is there."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deepscaler.training import background_write
from deepscaler.training.background_write import BackgroundWrite, RankWrites, write_as_rank
from deepscaler.training.checkpoint import CheckpointError, newest_checkpoint, steps_in
from deepscaler.training.checkpoint_writer import CheckpointWriter

LIMIT_S = 20.0


def nothing() -> None:
    pass


def in_background(wait_for: threading.Event, error: Exception | None = None) -> Callable[[Path], BackgroundWrite]:
    """Writes `weights` when the event is set, or fails."""

    def write(directory: Path) -> BackgroundWrite:
        def later() -> None:
            assert wait_for.wait(LIMIT_S)
            if error is not None:
                raise error
            (directory / "weights").write_bytes(b"1")

        return BackgroundWrite(later, "weights")

    return write


def at_once(directory: Path) -> None:
    (directory / "weights").write_bytes(b"0")


@pytest.fixture
def writer(tmp_path: Path) -> CheckpointWriter:
    writer = CheckpointWriter(tmp_path, in_background=True)
    writer.save(1, {"step": 1}, at_once, nothing)
    writer.wait()
    return writer


def test_it_is_committed_when_all_is_written_with_the_state_of_then(writer: CheckpointWriter) -> None:
    event, state, committed = threading.Event(), {"step": 2, "stage_ends": [1]}, []
    writer.save(2, state, in_background(event), lambda: committed.append(steps_in(writer.root)))
    state["stage_ends"] = [1, 2]
    writer.check()
    assert (writer.pending, steps_in(writer.root)) == (2, [1])
    event.set()
    writer.wait()
    found = newest_checkpoint(writer.root)
    assert found is not None
    assert (found.state, found.passed_over) == ({"step": 2, "stage_ends": [1]}, ())
    assert (writer.pending, committed) == (None, [[1, 2]])


def test_a_new_save_waits_for_the_one_before(writer: CheckpointWriter) -> None:
    event = threading.Event()
    writer.save(2, {"step": 2}, in_background(event), nothing)
    threading.Timer(0.1, event.set).start()
    writer.save(3, {"step": 3}, at_once, nothing)
    assert 2 in steps_in(writer.root)
    writer.wait()
    assert steps_in(writer.root) == [1, 2, 3]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "step 2 was not written to .*: the disk is full"),
        (ValueError("odd"), "step 2 was not written to .*: ValueError: odd"),
    ],
)
def test_a_failed_save_is_an_error_at_the_next_step_and_only_once(
    writer: CheckpointWriter, error: Exception, message: str
) -> None:
    event = threading.Event()
    writer.save(2, {"step": 2}, in_background(event, error), nothing)
    event.set()
    deadline = time.monotonic() + LIMIT_S
    while writer.pending is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    with pytest.raises(CheckpointError, match=message):
        writer.check()
    writer.check()
    assert [path.name for path in writer.root.iterdir()] == ["step-000001"]


def test_what_lost_workers_would_have_written_is_given_up(writer: CheckpointWriter) -> None:
    writer.save(2, {"step": 2}, in_background(threading.Event()), nothing)
    with pytest.raises(CheckpointError, match="workers were lost"):
        writer.abandon()
    assert [path.name for path in writer.root.iterdir()] == ["step-000001"]


def test_all_ranks_have_to_write(tmp_path: Path) -> None:
    events = [threading.Event(), threading.Event()]
    parts = [write_as_rank(tmp_path, rank, lambda e=event: wait(e)) for rank, event in enumerate(events)]
    writes = RankWrites(tmp_path, 2)
    events[0].set()
    parts[0].result()
    assert not writes.ready()
    events[1].set()
    writes.result()
    assert list(tmp_path.iterdir()) == []


def test_the_words_of_a_rank_that_fails_arrive(tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_as_rank(tmp_path, 0, lambda: wait(threading.Event()))
    write_as_rank(tmp_path, 1, fail)
    with pytest.raises(RuntimeError, match=r"rank-1: OSError.*No space left"):
        RankWrites(tmp_path, 2).result()


def test_waiting_for_ranks_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_write, "WRITE_LIMIT_S", 0.1)
    write_as_rank(tmp_path, 0, lambda: wait(threading.Event()))
    with pytest.raises(RuntimeError, match="rank-0: no end of writing"):
        RankWrites(tmp_path, 1).result()


def wait(event: threading.Event) -> None:
    event.wait(LIMIT_S)
