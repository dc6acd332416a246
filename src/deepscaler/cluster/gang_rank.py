"""One learner rank of several that were started apart, as Ray's actors are: they meet where rank 0 listens."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from deepscaler.cluster.local import PolicyFiles
from deepscaler.config import Recipe
from deepscaler.modeling.published_files import FileWeights
from deepscaler.protocols import AppliedUpdate, PolicyOrReference
from deepscaler.training.gradients import Logprobs
from deepscaler.training.sharded_replica import ShardedReplica, sharded_replica
from deepscaler.types import TokenSums, TrainSample

MEETING_LIMIT_S = 600.0  # for all ranks to arrive, each after loading PyTorch
COLLECTIVE_LIMIT_S = 1800.0  # how long a rank waits for the others in a step
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
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        limit = timedelta(seconds=COLLECTIVE_LIMIT_S)
        dist.init_process_group(backend, store=store, rank=self._rank, world_size=self._num_ranks, timeout=limit)
        self._replica = sharded_replica(self._recipe, self._policy.load(torch.float32), self._published)

    def logprobs(self, samples: Sequence[TrainSample], of: PolicyOrReference) -> Logprobs:
        return self._joined.logprobs(samples, of)

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> TokenSums:
        return self._joined.accumulate(samples, old, ref)

    def apply(self, learning_rate: float, max_grad_norm: float) -> AppliedUpdate:
        return self._joined.apply(learning_rate, max_grad_norm)

    def publish(self, version: int) -> FileWeights | None:
        return self._joined.publish(version)

    def begin_stage(self, reset_optimizer: bool, reset_reference: bool) -> None:
        self._joined.begin_stage(reset_optimizer, reset_reference)

    def save(self, directory: Path) -> None:
        self._joined.save(directory)

    def load(self, directory: Path, num_updates: int | None) -> None:
        self._joined.load(directory, num_updates)

    @property
    def _joined(self) -> ShardedReplica:
        assert self._replica is not None, "join comes first"
        return self._replica

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
