"""Ranks find each other by address and key; calls over a connection are cancelled, fail and end as over a pipe."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

import pytest

from deepscaler.cluster import rank_connections
from deepscaler.cluster.connection import ConnectionRemote, serve
from deepscaler.cluster.life_signs import WaitLimits
from deepscaler.cluster.rank_connections import accept_ranks, connect, open_meeting
from deepscaler.types import RunError

LIMIT_S = 20.0
LIMITS = WaitLimits(start_s=LIMIT_S, silence_s=LIMIT_S, stall_s=LIMIT_S)


class Counting:
    """Counts until nobody wants more."""

    def __init__(self, is_cancelled: Callable[[], bool]) -> None:
        self._is_cancelled = is_cancelled

    def numbers(self) -> Iterator[int]:
        number = 0
        while not self._is_cancelled():
            yield number
            number += 1

    def double(self, number: int) -> int:
        if number < 0:
            raise ValueError("negative")
        return 2 * number


@contextmanager
def remotes(count: int) -> Iterator[list[ConnectionRemote]]:
    with open_meeting("unused", on_one_machine=True) as (meeting, server):

        def rank(number: int) -> None:
            serve(connect(meeting, number), Counting)

        threads = [threading.Thread(target=rank, args=(number,), daemon=True) for number in (*range(2, count + 1), 1)]
        for thread in threads:
            thread.start()
        with socket.create_connection((meeting.host, meeting.port)) as stranger:
            stranger.sendall(bytes(36))
            connections = accept_ranks(meeting, server, count)
    opened = [ConnectionRemote(each, f"learner rank {i}", LIMITS) for i, each in enumerate(connections, start=1)]
    try:
        yield opened
    finally:
        for remote in opened:
            remote.close()
        for thread in threads:
            thread.join(LIMIT_S)
            assert not thread.is_alive()


def test_ranks_are_in_order_and_a_stranger_is_none_of_them() -> None:
    with remotes(3) as opened:
        assert [remote.call("double", 4).result() for remote in opened] == [8, 8, 8]


def test_a_stream_is_cancelled_by_a_message_and_calls_go_on() -> None:
    with remotes(1) as (remote,):
        stream = remote.stream("numbers")
        assert [next(stream), next(stream)] == [0, 1]
        waiting = remote.call("double", 5)
        stream.close()
        assert waiting.result() == 10
        assert next(remote.stream("numbers")) == 0


def test_errors_name_the_rank_and_the_method() -> None:
    with remotes(1) as (remote,):
        with pytest.raises(RunError, match=r"learner rank 1: double failed: ValueError: negative"):
            remote.call("double", -1).result()
        assert remote.call("double", 1).result() == 2


def test_a_rank_that_does_not_come_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_connections, "CONNECT_LIMIT_S", 0.1)
    with (
        open_meeting("unused", on_one_machine=True) as (meeting, server),
        pytest.raises(RunError, match="learner ranks 1, 2 did not connect"),
    ):
        accept_ranks(meeting, server, 2)


def test_a_far_end_that_ends_is_a_lost_worker() -> None:
    near, far = socket.socketpair()
    remote = ConnectionRemote(Connection(near.detach()), "learner rank 1", LIMITS)
    far.close()
    with pytest.raises(RunError, match="learner rank 1 died during double"):
        remote.call("double", 1).result()
    remote.close()
