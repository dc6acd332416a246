"""One learner rank of several that were started apart, as Ray's actors are: they meet where rank 0 listens."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist

from deepscaler.cluster.local import PolicyFiles
from deepscaler.config import Recipe
from deepscaler.training.sharded_replica import ShardedReplica, join_process_group, sharded_replica

MEETING_LIMIT_S = 600.0  # for all ranks to arrive, each after loading PyTorch
_TCPStore: Any = vars(dist)["TCPStore"]  # public, but its types do not say so
_SIOCGIFADDR = 0x8915  # ioctl: the IPv4 address of a network interface (Linux)


class GangRank:
    """A part of the sharded learner, after `join`. policy: as this machine sees it. published: directory of weights."""

    def __init__(self, recipe: Recipe, policy: PolicyFiles, published: Path, rank: int, num_ranks: int) -> None:
        self._recipe, self._policy, self._published = recipe, policy, published
        self._rank, self._num_ranks = rank, num_ranks
        self._store: Any = None
        self._replica: ShardedReplica | None = None

    def open_meeting(self, host: str) -> int:
        """Rank 0: listen on this address of its machine and on no other; returns the port."""
        server = socket.create_server((host, 0))
        port: int = server.getsockname()[1]
        self._store = self._store_at(host, port, server.detach())
        return port

    def join(self, host: str, port: int, own_address: str) -> None:
        """Meet the other ranks, load this rank's part of the model. own_address: of this machine.

        Raises RuntimeError (DistStoreError) when a rank does not arrive within the limit.
        """
        store = self._store or self._store_at(host, port)
        if interface := interface_of(own_address):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        join_process_group(store=store, rank=self._rank, world_size=self._num_ranks)
        self._replica = sharded_replica(
            self._recipe, self._policy.load_on_meta(), self._published, self._policy.files.path
        )

    def __getattr__(self, method: str) -> Any:
        """Everything that a `ShardedReplica` does."""
        if self.__dict__.get("_replica") is None:
            raise AttributeError(f"{method}: join comes first")
        return getattr(self._replica, method)

    def _store_at(self, host: str, port: int, listening: int | None = None) -> Any:
        return _TCPStore(
            host,
            port,
            self._num_ranks,
            is_master=listening is not None,
            timeout=timedelta(seconds=MEETING_LIMIT_S),
            wait_for_workers=False,
            master_listen_fd=listening,
        )


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this IPv4 address; None where there is none (Linux only)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(any_socket.fileno(), _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None
