"""What the machines of a running Ray cluster lack, and whether a recipe's workers have room on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deepscaler.cli.diagnosis.finding import Finding
from deepscaler.cli.diagnosis.recipe import workers_fit
from deepscaler.config import Recipe
from deepscaler.observability.counts import counted

STORE_BYTES = 80 * 2**20  # of a Ray that is started here for the look, where the address is `local`


def nodes(address: str, run_dir: Path, recipe: Recipe | None) -> Iterator[Finding]:
    """One finding a machine: cores, GPUs, versions beside those here, and whether it sees run_dir."""
    try:
        from deepscaler.cluster.ray_installation import require_ray

        require_ray()
        from deepscaler.cluster.ray_nodes import machines
        from deepscaler.cluster.ray_session import Local, ray_session

        run_dir.mkdir(parents=True, exist_ok=True)
        with ray_session(address, Local(num_cpus=1, num_gpus=0, object_store_bytes=STORE_BYTES)):
            found = list(machines(run_dir))
    except (ValueError, OSError) as error:
        yield Finding("ray cluster", "missing", str(error))
        return
    for machine in found:
        has = f"{counted(machine.cores, 'core')}, {counted(machine.gpus, 'GPU')}"
        same = f"{machine.name}: {has}, the versions of this machine, sees {run_dir}"
        yield Finding("node", "missing" if machine.complaint else "ok", machine.complaint or same)
    if recipe is not None and recipe.cluster.kind == "ray":
        total = sum(machine.cores for machine in found), sum(machine.gpus for machine in found)
        yield workers_fit(recipe, *total, "the Ray cluster")
