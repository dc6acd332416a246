"""Parts that a recipe chooses by name: rewards, engines, constructions of a cluster.

Settings load without torch and know nothing of the folders above them, so parts are listed here as import paths
(`module:attribute`), and imported by `load` when they are used. A reward needs no line: its module in
`rewards/profiles/` is its name.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel
from pydantic_core import PydanticCustomError


@dataclass(frozen=True, slots=True)
class EnginePart:
    """An engine, and what of a training recipe it can honour.

    path: of its `engines.registry.Engine`. stop_strings: texts that end a completion (rollout.stop). float32_head: the
    learner's logits in float32 (model.float32_head). overlaps: it can sample while the learner updates
    (rollout.max_policy_lag). requires: of a function of the section that chose the engine ([rollout], or an
    evaluation's [engine]); it raises ValueError where something is missing that only this engine needs, and loads
    without torch. own_kernels: whether it computes logits with other code than the learner. beside_ranks: it leaves
    the process group of torchrun's ranks alone.
    """

    path: str
    stop_strings: bool = True
    float32_head: bool = True
    overlaps: bool = True
    requires: str | None = None
    own_kernels: bool = False
    beside_ranks: bool = True


ENGINES: Mapping[str, EnginePart] = {
    "torch": EnginePart("deepscaler.cluster.embedded:ENGINE"),
    "vllm": EnginePart(
        "deepscaler.engines.vllm.opening:ENGINE",
        stop_strings=False,
        float32_head=False,
        overlaps=False,
        beside_ranks=False,
        requires="deepscaler.engines.vllm.installation:require_in_process",
        own_kernels=True,
    ),
    "vllm_server": EnginePart(
        "deepscaler.cluster.vllm_servers:ENGINE",
        stop_strings=False,
        float32_head=False,
        requires="deepscaler.engines.vllm_server.environment:require_servers",
        own_kernels=True,
    ),
}
CLUSTERS: Mapping[str, str] = {
    "local": "deepscaler.cluster.local:open_local",
    "torchrun": "deepscaler.cluster.torchrun:open_torchrun",
    "ray": "deepscaler.cluster.ray:open_ray",
}
# Of a construction that needs more than this program: a function that raises ValueError where it is not there. It
# loads without torch.
CLUSTER_REQUIRES: Mapping[str, str] = {
    "local": "deepscaler.cluster.torchrun_environment:refuse_ranks",
    "torchrun": "deepscaler.cluster.torchrun_environment:require_torchrun",
    "ray": "deepscaler.cluster.ray_installation:require_ray",
}

PROFILES = "deepscaler.rewards.profiles"
REWARDS: tuple[str, ...] = tuple(
    sorted(module.name for module in pkgutil.iter_modules([str(Path(__file__).parents[1] / "rewards" / "profiles")]))
)


def load(path: str) -> Any:
    """What an import path of this package (`module:attribute`) names. Raises ValueError for another package's."""
    module, _, attribute = path.partition(":")
    if not module.startswith("deepscaler."):
        raise ValueError(f"{path!r} is no import path of this package; only its own parts are imported by name")
    return getattr(import_module(module), attribute)


def require_engine(name: str, section: BaseModel) -> None:
    """Raises ValueError with instructions where the engine cannot be used. section: that names it. Loads no torch."""
    if requires := ENGINES[name].requires:
        load(requires)(section)


def require_cluster(name: str) -> None:
    """Raises ValueError with instructions where what the construction needs is not there. Loads no torch."""
    if name in CLUSTER_REQUIRES:
        load(CLUSTER_REQUIRES[name])()


def require_lora(rank: int) -> None:
    """Raises ValueError with instructions where adapters of this rank need PEFT and it is not installed."""
    if rank and importlib.util.find_spec("peft") is None:
        raise ValueError(
            f"PEFT is not installed in this environment, so model.lora.rank = {rank} cannot be used: "
            "`pip install 'deepscaler[lora]'`; or set model.lora.rank = 0 to train all weights"
        )


def one_of(names: Collection[str]) -> AfterValidator:
    """Refuses a text that is none of these names; the error lists them and suggests the nearest."""

    def check(given: str) -> str:
        if given in names:
            return given
        near = get_close_matches(given, names, n=1, cutoff=0.6)
        hint = f'; did you mean "{near[0]}"?' if near else ""
        expected = " or ".join(f"'{name}'" for name in names)
        raise PydanticCustomError(
            "unknown_part", "Input should be one of {expected}", {"expected": expected, "hint": hint}
        )

    return AfterValidator(check)


EngineName = Annotated[str, one_of(ENGINES)]
ClusterKind = Annotated[str, one_of(CLUSTERS)]
RewardName = Annotated[str, one_of(REWARDS)]
