"""The construction of a run's workers by its name in a recipe (`cluster.kind`); `config.parts.CLUSTERS` lists them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from deepscaler.cluster.local import PolicyFiles
from deepscaler.config import Recipe, parts
from deepscaler.protocols import Cluster

Open = Callable[[Recipe, PolicyFiles], AbstractContextManager[Cluster]]


def load_cluster(kind: str) -> Open:
    """What opens the cluster of that name."""
    return parts.load(parts.CLUSTERS[kind])
