"""Reward functions in processes of their own: whatever they do is a counted outcome of that completion."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from deepscaler.config.sections.reward import RewardPartSection
from deepscaler.observability.files import fingerprint
from deepscaler.rewards.functions.pool import FunctionPool
from deepscaler.rewards.functions.process import FunctionError
from deepscaler.types import PartOutcome, PartValue

FUNCTIONS = Path(__file__).parents[1] / "support" / "reward_functions.py"
FACTS = {"answer": "2", "references": ["2"], "thinking": "hm", "response": "two", "correct": True, "level": 3}


@contextmanager
def opened(function: str, folder: Path | None = None, **settings: Any) -> Iterator[FunctionPool]:
    path = function if ":" in function else f"{FUNCTIONS}:{function}"
    pool = FunctionPool(RewardPartSection(name="part", function=path, **settings), folder)
    try:
        pool.open()
        yield pool
    finally:
        pool.close()


def called(pool: FunctionPool, *completions: str, **facts: object) -> list[PartValue]:
    group: list[Mapping[str, object]] = [{**FACTS, **facts, "completion": text} for text in completions]
    return pool([group])[0]


@pytest.mark.parametrize(
    ("function", "settings", "values"),
    [
        ("length", {"arguments": {"scale": 0.5}}, [1.0, 0.5]),
        ("everything", {}, [7.0, 7.0]),
        ("answers", {}, [1.0, 1.0]),
        ("batched", {}, [0.5, 0.5]),
        ("waiting", {"workers": 2}, [1.0, 1.0]),
    ],
)
def test_plain_batched_and_coroutine_functions_get_what_they_name(
    function: str, settings: dict[str, Any], values: list[float]
) -> None:
    with opened(function, **settings) as pool:
        found = called(pool, "ab", "c")
        assert [value.value for value in found] == values, found
        if function == "answers":
            assert dict(found[0].metrics) == {"level": 3.0, "thought": 2.0, "said": 3.0}
            assert pool.required_columns == ("level",)


def test_none_is_no_signal_and_not_a_failure() -> None:
    with opened("batched") as pool:
        (value,) = called(pool, "ab", level=0)
    assert (value.outcome, value.value, value.outcome.failed) == (PartOutcome.NO_SIGNAL, None, False)


@pytest.mark.parametrize(
    ("function", "outcome", "words"),
    [
        ("text", PartOutcome.WRONG_TYPE, "returned 'good', a str"),
        ("no_reward", PartOutcome.WRONG_TYPE, "mapping without `reward`"),
        ("one_number", PartOutcome.WRONG_TYPE, "returns a list of numbers"),
        ("not_a_number", PartOutcome.NOT_FINITE, "returned nan"),
        ("endless", PartOutcome.NOT_FINITE, "returned inf"),
        ("too_few", PartOutcome.WRONG_LENGTH, "returned values: 1, completions: 2"),
        ("raises", PartOutcome.EXCEPTION, 'reward_functions.py", line'),
        ("greedy", PartOutcome.EXCEPTION, "MemoryError"),
        ("dies", PartOutcome.CRASHED, "SIGKILL"),
        ("network", PartOutcome.EXCEPTION, "network = true"),
    ],
)
def test_a_function_that_misbehaves_costs_the_completion_its_reward_and_says_why(
    function: str, outcome: PartOutcome, words: str
) -> None:
    with opened(function) as pool:
        for value in called(pool, "a", "b"):
            assert (value.outcome, value.value) == (outcome, None)
            assert words in value.detail


def test_a_call_over_its_waiting_time_is_ended_with_its_stack_and_the_next_one_is_answered() -> None:
    with opened("sleeps", wall_s=0.5) as pool:
        slow, quick = called(pool, "slow", "quick")
    assert (slow.outcome, quick.value) == (PartOutcome.TIMEOUT, 1.0)
    assert "in sleeps" in slow.detail and "supervisor" not in slow.detail


def test_a_coroutine_over_its_waiting_time_costs_nobody_else_anything() -> None:
    with opened("waiting", wall_s=0.5) as pool:
        outcomes = [value.outcome for value in called(pool, "a", "slow", "b")]
    assert outcomes == [PartOutcome.VALUE, PartOutcome.TIMEOUT, PartOutcome.VALUE]


def test_processor_time_is_limited() -> None:
    with opened("spins", cpu_s=0.2, wall_s=60) as pool:
        (value,) = called(pool, "a")
    assert value.outcome is PartOutcome.TIMEOUT and "0.2 s of processor time" in value.detail


def test_megabytes_of_output_hinder_nobody_and_are_kept_to_a_limit(tmp_path: Path) -> None:
    with opened("loud", tmp_path) as pool:
        assert called(pool, "a")[0].value == 1.0
    printed = tmp_path / "part.log"
    assert 2**18 <= printed.stat().st_size < 2**18 + 100 and b"dropped" in printed.read_bytes()[-60:]


def test_what_a_function_forks_answers_nothing_and_ends_with_it(tmp_path: Path) -> None:
    with opened("forks", tmp_path) as pool:
        assert [value.value for value in called(pool, "a", "b")] == [2.0, 2.0]
        deadline = time.monotonic() + 10
        while not (tmp_path / "pid").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        pid = int((tmp_path / "pid").read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_kernel_refuses_the_network_to_extension_modules_too() -> None:
    with opened("network_in_c") as pool:
        if not pool.open().network_enforced:
            pytest.skip("this kernel has no seccomp filters")
        assert called(pool, "a")[0].value == 0.0
    with opened("network_in_c", network=True) as pool:
        assert called(pool, "a")[0].value == 1.0


def test_secrets_reach_a_function_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPSCALER_TEST_SECRET", "x")
    with opened("secret") as pool:
        assert called(pool, "a")[0].value == 0.0
    with opened("secret", environment=("DEEPSCALER_TEST_SECRET",)) as pool:
        assert called(pool, "a")[0].value == 1.0


@pytest.mark.parametrize(
    ("path", "settings", "words"),
    [
        ("nothing", {}, "has no function 'nothing'; it has length, everything"),
        ("no_function", {}, "is a int, not a function"),
        ("by_place", {}, "takes completion by position only"),
        ("length", {"arguments": {"factor": 2}}, "arguments names factor, which it does not take"),
        ("length", {"arguments": {"completion": "x"}}, "arguments names completion, which is filled by the program"),
        ("no_such_package_here.rewards:length", {}, "there is no module 'no_such_package_here'"),
    ],
)
def test_what_cannot_be_used_is_refused_when_it_is_loaded(path: str, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(FunctionError, match="reward part 'part'") as caught, opened(path, **settings):
        pass
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' (line 1)"),
        ("def f(completion:\n    return 1\n", "SyntaxError"),
        ("raise RuntimeError('not today')\n", "RuntimeError: not today (line 1)"),
        ("import os\nos._exit(7)\n", "ended with exit status 7"),
    ],
)
def test_a_file_that_does_not_import_is_refused_with_its_line(tmp_path: Path, source: str, words: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(source)
    with pytest.raises(FunctionError) as caught, opened(f"{file}:f"):
        pass
    assert words in str(caught.value)


def test_the_digest_is_of_the_file_and_of_what_it_imports_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("FACTOR = 2\n")
    file = tmp_path / "mine.py"
    file.write_text("from beside import FACTOR\ndef f(completion):\n    return FACTOR\n")
    digests = []
    for text in ("FACTOR = 2\n", "FACTOR = 3\n"):
        (tmp_path / "beside.py").write_text(text)
        with opened(f"{file}:f") as pool:
            digests.append(pool.digest)
            assert set(pool.open().sources) == {"mine.py", "beside.py"}
            assert pool.open().sources["mine.py"] == fingerprint(file).sha256
    assert digests[0] != digests[1]
