"""Nothing that was stored is lost, nothing torn is believed, and other settings are never mixed in."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deepscaler.evaluation.completions import Completion, Key
from deepscaler.evaluation.journal import Journal
from deepscaler.evaluation.store import SampleStore
from deepscaler.types import FinishReason, Outcome, RunError, Verdict

SETTINGS = {"seed": 1, "sampling": {"temperature": 0.6, "top_p": 0.95}, "grader": {"version": "1"}}


def completion(index: int, text: str = "so \\boxed{1}\n\u2028 é") -> Completion:
    return Completion(Key("set", "p/1", index), text, (3, 4), 2, FinishReason.STOP, 7, 0.5)


VERDICT = Verdict(Outcome.CORRECT, 1.0, "1", "same number", 0.01)


def test_what_is_stored_comes_back(tmp_path: Path) -> None:
    with SampleStore(tmp_path, SETTINGS) as store:
        for index in range(3):
            store.add(completion(index))
        store.add_verdict(completion(1).key, VERDICT)
    with SampleStore(tmp_path, SETTINGS) as store:
        assert len(store) == 3 and completion(2).key in store and completion(3).key not in store
        assert [c.key.sample_index for c in store.ungraded()] == [0, 2]
        assert list(store.rows(completion(i).key for i in (2, 1, 0))) == [(completion(1), VERDICT)]


def test_samples_can_be_added_to_an_evaluation_but_not_taken_away(tmp_path: Path) -> None:
    few, many = ({**SETTINGS, "num_samples": count} for count in (4, 16))
    with SampleStore(tmp_path, few) as store:
        store.add(completion(0))
    with SampleStore(tmp_path, many) as store:
        assert completion(0).key in store and completion(4).key not in store
    with pytest.raises(
        ValueError, match=r"was made with --samples 16, and 4 were asked for; give --samples 16 or more"
    ):
        SampleStore(tmp_path, few)
    with pytest.raises(ValueError, match="made with other settings"):
        SampleStore(tmp_path, {**many, "num_samples": 32, "seed": 2})


def test_a_token_count_that_no_file_can_hold_does_not_stop_an_evaluation_for_ever(tmp_path: Path) -> None:
    with SampleStore(tmp_path, SETTINGS) as store:
        store.add(replace(completion(0), num_tokens=10**30))
    with SampleStore(tmp_path, SETTINGS) as store:
        assert store.read(completion(0).key) == replace(completion(0), num_tokens=None)


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped_and_written_again(tmp_path: Path, cut: int) -> None:
    with SampleStore(tmp_path, SETTINGS) as store:
        for index in range(3):
            store.add(completion(index))
    file = tmp_path / "journal" / "completions.jsonl"
    file.write_bytes(file.read_bytes()[:-cut])
    with SampleStore(tmp_path, SETTINGS) as store:
        assert store.num_damaged == 1 and len(store) == 2
        store.add(completion(2))
    with SampleStore(tmp_path, SETTINGS) as store:
        assert store.num_damaged == 0
        assert [store.read(completion(i).key) for i in range(3)] == [completion(i) for i in range(3)]


def test_a_flipped_bit_costs_its_own_line_only(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    assert not list(journal.entries())
    places = [journal.append({"i": i, "text": "x" * 50}) for i in range(3)]
    journal.close()
    data = bytearray((tmp_path / "j").read_bytes())
    data[places[1].offset + 20] ^= 1
    (tmp_path / "j").write_bytes(data)
    again = Journal(tmp_path / "j")
    assert [row["i"] for _, row in again.entries()] == [0, 2]
    assert again.num_damaged == 1
    with pytest.raises(RunError, match="changed while"):
        again.read(places[1])


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    with SampleStore(tmp_path, {"seed": 0}):
        pass  # never got a sample: binds nobody
    with SampleStore(tmp_path, SETTINGS) as store:
        store.add(completion(0))
    other = {**SETTINGS, "sampling": {"temperature": 0.7, "top_p": 0.95}}
    with pytest.raises(ValueError, match=r"sampling.temperature: 0.6 -> 0.7\).*another --out") as caught:
        SampleStore(tmp_path, other)
    assert "regrade" not in str(caught.value)
    with pytest.raises(ValueError, match=r"grader.version.*deepscaler regrade"):
        SampleStore(tmp_path, {**SETTINGS, "grader": {"version": "2"}})
    SampleStore(tmp_path, SETTINGS).close()  # a refusal leaves the directory usable


def test_samples_of_unknown_origin_are_refused(tmp_path: Path) -> None:
    (tmp_path / "samples.parquet").write_bytes(b"")
    with pytest.raises(ValueError, match="nothing says how they were made"):
        SampleStore(tmp_path, SETTINGS)


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with SampleStore(tmp_path, SETTINGS), pytest.raises(ValueError, match="another process is evaluating"):
        SampleStore(tmp_path, SETTINGS)


def test_a_sample_cannot_be_stored_twice(tmp_path: Path) -> None:
    with SampleStore(tmp_path, SETTINGS) as store:
        store.add(completion(0))
        with pytest.raises(AssertionError, match="arrived twice"):
            store.add(completion(0))


@pytest.mark.parametrize("half", [False, True])
def test_a_full_disk_keeps_what_was_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, half: bool) -> None:
    write: Callable[..., int] = os.pwrite

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if half:
            return write(descriptor, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with SampleStore(tmp_path, SETTINGS) as store:
        store.add(completion(0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", full)
            with pytest.raises(RunError, match=r"completions.jsonl: the disk is full.*same command again"):
                store.add(completion(1))
        assert store.read(completion(0).key) == completion(0)
    with SampleStore(tmp_path, SETTINGS) as store:
        assert store.num_damaged == 0 and len(store) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_evaluation_store import SETTINGS, completion
from deepscaler.evaluation.store import SampleStore
store = SampleStore(Path(sys.argv[1]), SETTINGS)
for index in range(50):
    store.add(completion(index))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_loses_nothing_it_had_stored(tmp_path: Path) -> None:
    command: list[Any] = [sys.executable, "-c", KILLED, tmp_path, Path(__file__).parent]
    assert subprocess.run(command, timeout=60).returncode == -9
    with SampleStore(tmp_path, SETTINGS) as store:
        assert len(store) == 50 and store.num_damaged == 0


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EDQUOT, "quota"), (errno.EFBIG, "beyond the size allowed"), (errno.EIO, "input/output")],
)
def test_storage_that_refuses_a_sample_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(descriptor: int, data: bytes, offset: int) -> int:
        raise OSError(number, os.strerror(number))

    with SampleStore(tmp_path, SETTINGS) as store, monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", refuse)
        with pytest.raises(RunError, match=rf"completions.jsonl: .*{words}.*same command again"):
            store.add(completion(1))


def test_what_a_killed_process_left_half_written_goes_when_the_next_one_begins(tmp_path: Path) -> None:
    left = [tmp_path / ".samples.parquet.77.tmp", tmp_path / "journal" / ".verdicts.jsonl.77.tmp"]
    (tmp_path / "journal").mkdir()
    for path in left:
        path.write_text("half")
    with SampleStore(tmp_path, SETTINGS):
        assert not any(path.exists() for path in left)
