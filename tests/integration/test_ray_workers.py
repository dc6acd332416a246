"""Actors, places and the end of Ray: what holds for workers under Ray, whatever they compute."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray

from child_pythonpath import PYTHONPATH
from deepscaler.cluster import ray_remote
from deepscaler.cluster.ray_placement import Role, check_resources, placed
from deepscaler.cluster.ray_remote import ActorOptions, RayRemote
from deepscaler.cluster.ray_session import Local, ray_session
from deepscaler.types import RunError, WorkerLost
from ray_objects import Counter, broken
from ray_processes import descendants, listening

LIMIT_S = 60.0
SUPPORT = Path(__file__).parents[1] / "support"


@pytest.fixture(scope="module", autouse=True)
def killed_driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen, Path]]:
    """Another Ray, whose driver kills itself, with its files in a directory of its own."""
    directory = Path("/tmp") / f"kd-{os.getpid()}"
    directory.mkdir()
    environment = {**os.environ, "PYTHONPATH": PYTHONPATH, "TMPDIR": str(directory)}
    command = [sys.executable, str(SUPPORT / "killed_ray_driver.py")]
    program = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    yield program, directory
    program.kill()
    directory.rmdir()


@pytest.fixture(scope="module", autouse=True)
def started(killed_driver: object) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", PYTHONPATH)  # of the actors
        with ray_session("local", Local(num_cpus=4, num_gpus=0, object_store_bytes=80 * 2**20)):
            yield


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RayRemote]]:
    remotes: list[RayRemote] = []

    def make(build: Callable[..., object] = Counter, silence_s: float = 60.0, stall_s: float = 1800.0) -> RayRemote:
        options = ActorOptions("worker 7", log=tmp_path / "worker.log", silence_s=silence_s, stall_s=stall_s)
        remotes.append(RayRemote(build, options))
        return remotes[-1]

    yield make
    for remote in remotes:
        remote.close()


def test_calls_and_streams_are_answered_in_order_and_errors_come_back(start) -> None:
    remote = start()
    replies = [remote.call("add", i, 1) for i in range(5)]
    stream = remote.stream("forever")
    assert [reply.result() for reply in replies] == [1, 2, 3, 4, 5]
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    stream.close()
    assert list(stream) == [] and stream.ready()
    with pytest.raises(RunError, match="worker 7: fail failed: ValueError: no good"):
        remote.call("fail").result()
    assert remote.call("add", 2, 2).result() == 4, "it answers on"


def test_control_calls_do_not_wait_behind_1500_generations(start) -> None:
    remote = start()
    streams = [remote.stream("forever") for _ in range(1500)]
    assert next(streams[0]) == 0
    assert remote.pid > 0
    streams[0].close()
    assert not streams[-1].ready(), "the others are still queued"


def test_an_object_that_cannot_be_made_says_why(start) -> None:
    remote = start(broken)
    with pytest.raises(RunError, match="worker 7: start failed: ValueError: no such model"):
        remote.wait_until_started()
    with pytest.raises(RunError, match="worker 7: start failed: ValueError: no such model"):
        remote.call("add", 1, 1).result()


def test_a_killed_worker_is_lost_with_its_last_lines(start) -> None:
    remote = start()
    stream = remote.stream("forever")
    next(stream)
    stream.close()
    pid = remote.call("last_words").result()
    stream = remote.stream("forever")
    next(stream)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match=r"(?s)worker 7 died during forever .*its last lines.*\nsomething terrible"):
        list(stream)
    assert stream.ready()
    with pytest.raises(WorkerLost):
        remote.call("add", 1, 1).result()


def test_a_stopped_worker_is_ended_and_lost(start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_remote, "_ASK_EVERY_S", 0.1)
    remote = start(silence_s=1.0)
    stream = remote.stream("forever")
    pid = remote.pid
    next(stream)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(WorkerLost, match=r"worker 7 died during forever .no sign of life"):
        list(stream)


def test_a_hung_worker_is_ended_with_its_stacks(start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_remote, "_ASK_EVERY_S", 0.1)
    remote = start(stall_s=1.0)
    with pytest.raises(WorkerLost, match=r"(?s)worker 7 died during hang .no progress for 1 s.*its last lines"):
        remote.call("hang").result()
    assert "in hang" in (tmp_path / "worker.log").read_text()


def test_too_few_cores_are_refused_before_anything_is_placed() -> None:
    with pytest.raises(
        ValueError, match=r"needs 9 CPU cores for learner \(4\) and samplers \(5\), .* has 4"
    ) as refused:
        check_resources([Role("learner", 4, 0), Role("samplers", 5, 0)])
    assert "cluster.samplers" in str(refused.value)
    with pytest.raises(ValueError, match=r"needs 2 GPUs for learner \(2\), and the cluster has 0"):
        check_resources([Role("learner", 2, 1), Role("samplers", 1, 0)])


def test_taken_cores_are_waited_for_with_a_limit() -> None:
    role = Role("samplers", 3, 0)
    with placed(role, LIMIT_S) as places:
        assert sorted(place.index for place in places) == [0, 1, 2]
        with pytest.raises(RunError, match=r"samplers: no room for 3 workers within 0.5 s: 3 CPU cores needed, "):
            placed(role, 0.5).__enter__()
    with placed(role, LIMIT_S):
        pass


def test_ray_listens_on_loopback_only_and_wants_a_token() -> None:
    processes = descendants(os.getpid())
    addresses = {address for pid in processes for address in listening(pid)}
    assert addresses and {address.rpartition(":")[0] for address in addresses} <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert ray.nodes()[0]["NodeManagerAddress"] == "127.0.0.1"


def test_sigterm_is_left_to_the_training_loop() -> None:
    assert signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, signal.default_int_handler)


def test_nothing_is_left_of_a_ray_whose_driver_was_killed(killed_driver: tuple[subprocess.Popen, Path]) -> None:
    program, directory = killed_driver
    printed, _ = program.communicate(timeout=LIMIT_S)
    assert program.returncode == -signal.SIGKILL
    processes = [Path("/proc") / pid for pid in printed.split()]
    assert len(processes) > 4
    deadline = time.monotonic() + LIMIT_S
    while (left := [*directory.iterdir(), *filter(Path.exists, processes)]) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not left
