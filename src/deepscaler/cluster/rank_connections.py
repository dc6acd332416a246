"""Connections between rank 0, which calls, and the other ranks, which serve: sockets, on one machine over loopback."""

from __future__ import annotations

import hmac
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from deepscaler.types import RunError

LOOPBACK = "127.0.0.1"
CONNECT_LIMIT_S = 300.0
_KEY_BYTES, _RANK_BYTES = 32, 4
# A machine that vanishes without a word is noticed after 10 + 3 * 5 seconds.
_KEEPALIVE = (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where rank 0 waits for the others, and the secret by which it knows them. Picklable."""

    host: str
    port: int
    key: bytes


@contextmanager
def open_meeting(host: str, *, on_one_machine: bool) -> Iterator[tuple[Meeting, socket.socket]]:
    """A listening socket of this machine, whose name is `host`: on loopback, or for others on every interface.

    A machine's own name may resolve to its loopback address, which other machines cannot reach.
    """
    host, interface = (LOOPBACK, LOOPBACK) if on_one_machine else (host, "")
    with socket.create_server((interface, 0)) as server:
        yield Meeting(host, server.getsockname()[1], secrets.token_bytes(_KEY_BYTES)), server


def accept_ranks(meeting: Meeting, server: socket.socket, count: int) -> list[Connection]:
    """Connections to ranks 1 to `count`, in order. Raises RunError when one does not come within the limit."""
    found: dict[int, Connection] = {}
    deadline = time.monotonic() + CONNECT_LIMIT_S
    while len(found) < count:
        server.settimeout(max(0.1, deadline - time.monotonic()))
        try:
            peer, _ = server.accept()
            peer.settimeout(10.0)
            hello = _read(peer, _KEY_BYTES + _RANK_BYTES)
        except OSError:  # a stranger that says nothing, or nobody
            if time.monotonic() < deadline:
                continue
            missing = sorted({*range(1, count + 1)} - found.keys())
            raise RunError(
                f"learner ranks {', '.join(map(str, missing))} did not connect to {meeting.host}:{meeting.port} within "
                f"{CONNECT_LIMIT_S:.0f} s; is a firewall between the machines?"
            ) from None
        if hmac.compare_digest(hello[:_KEY_BYTES], meeting.key):
            found[int.from_bytes(hello[_KEY_BYTES:])] = _connection(peer)
        else:
            peer.close()
    return [found[rank] for rank in range(1, count + 1)]


def connect(meeting: Meeting, rank: int) -> Connection:
    """This rank's connection to rank 0."""
    peer = socket.create_connection((meeting.host, meeting.port), timeout=CONNECT_LIMIT_S)
    peer.sendall(meeting.key + rank.to_bytes(_RANK_BYTES))
    return _connection(peer)


def _read(peer: socket.socket, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        part = peer.recv(count - len(parts))
        if not part:
            raise ConnectionResetError
        parts += part
    return parts


def _connection(peer: socket.socket) -> Connection:
    peer.settimeout(None)
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if hasattr(socket, name):  # of Linux
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(peer.detach())
