"""The construction of a run's workers by its name in a recipe (`cluster.kind`); `config.parts.CLUSTERS` lists them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from deepscaler.cluster.local import PolicyFiles
from deepscaler.config import Recipe, parts
from deepscaler.protocols import Cluster

# The path is the run's directory, which every worker sees: workers write below it, never over files of the run.
Open = Callable[[Recipe, PolicyFiles, Path], AbstractContextManager[Cluster]]


def load_cluster(kind: str) -> Open:
    """What opens the cluster of that name."""
    return parts.load(parts.CLUSTERS[kind])
