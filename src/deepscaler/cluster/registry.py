"""The constructions of a run's workers, by their names in a recipe (`cluster.kind`)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from deepscaler.cluster.local import PolicyFiles, open_local
from deepscaler.config import Recipe
from deepscaler.protocols import Cluster

Open = Callable[[Recipe, PolicyFiles], AbstractContextManager[Cluster]]

CLUSTERS: dict[str, Open] = {"local": open_local}
