"""`deepscaler deploy`: a job file for a cluster, from a template of the package and the user's values."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Annotated

import typer

from deepscaler.cli.deploy_templates import FILES, RAY, Deployment, rendered

NAMES = "slurm-torchrun, slurm-ray, skypilot, kuberay or docker"
ON_VOLUME = ("skypilot", "kuberay")
CHECK_LIMIT_S = 10.0
SAFE = {  # values that need no quotes in a job file
    "--recipe": r"[\w./@+-]+",
    "--run-dir": r"/[\w./@+-]+",
    "--image": r"[\w.-]+(:\d+)?(/[\w.-]+)*(:[\w.-]+|@sha256:[0-9a-f]{64})",
    "--accelerator": r"[\w-]+",
}


def deploy(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{NAMES}; docs/deploy.md says which is for what.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder of the new file.")],
    recipe: Annotated[str, typer.Option(help="A path on all machines, or the name of one of the package.")],
    run_dir: Annotated[str, typer.Option(help="On a file system that all machines share.")] = "/runs/deepscaler",
    nodes: Annotated[int, typer.Option(min=1, help="Machines.")] = 2,
    gpus: Annotated[int, typer.Option(min=1, help="Of each machine.")] = 8,
    learner_gpus: Annotated[
        int | None,
        typer.Option(min=1, help="With Ray, of all machines: 3/8 of them by default; samplers have the rest."),
    ] = None,
    image: Annotated[str, typer.Option(help="For kuberay, with its tag.")] = "registry.example.org/deepscaler:0.1.0",
    accelerator: Annotated[str, typer.Option(help="Kind of GPU, as SkyPilot names it.")] = "H100",
) -> None:
    """Write a job file for a cluster, checked with the recipe, and print the command that submits it."""
    if name not in FILES:
        raise ValueError(f"{name!r} is no template; expected {NAMES}")
    given = {"--recipe": recipe, "--run-dir": run_dir, "--image": image, "--accelerator": accelerator}
    for option, value in given.items():
        if re.fullmatch(SAFE[option], value) is None:
            raise ValueError(f"{option} {value!r} cannot be written into a job file; expected the form {SAFE[option]}")
    if name in ON_VOLUME and not run_dir.startswith("/runs/"):
        raise ValueError(
            f"--run-dir {run_dir}: the volume that the machines of {name} share is /runs; choose one below it"
        )
    total = nodes * gpus
    values = Deployment(nodes, gpus, learner_gpus or max(1, total * 3 // 8), recipe, run_dir, image, accelerator)
    if name in RAY and values.rollout_gpus < 1:
        raise ValueError(
            f"--learner-gpus {values.learner_gpus} of {total} GPUs leave none to the samplers; ask for fewer, or use "
            "slurm-torchrun, where learner and engines share GPUs"
        )
    _check_recipe(name, values)
    path = _write(to / FILES[name], rendered(name, values))
    print(f"{path}\n{_submit(name, path, values)}")


def _check_recipe(name: str, values: Deployment) -> None:
    """Raises RecipeError for one that does not load, or not with this construction."""
    from deepscaler.config import load_recipe

    kind = "ray" if name in RAY else "local" if name == "docker" else "torchrun"
    load_recipe(Path(values.recipe), [f"cluster.kind={kind}", *(values.split if kind == "ray" else [])])


def _write(path: Path, text: str) -> Path:
    """Raises ValueError where another file is in its place, or a shell refuses the script."""
    if path.exists() and path.read_text() != text:
        raise ValueError(f"{path} exists and differs; remove it, or choose another folder")
    if path.suffix == ".sbatch" and (bash := shutil.which("bash")) is not None:
        checked = subprocess.run([bash, "-n"], input=text, text=True, capture_output=True, timeout=CHECK_LIMIT_S)
        if checked.returncode:
            raise ValueError(f"bash does not accept the script: {checked.stderr.strip()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def _submit(name: str, path: Path, values: Deployment) -> str:
    file = shlex.quote(str(path))
    if name == "kuberay":
        return f"kubectl apply -f {file}"
    if name == "skypilot":
        return f"sky jobs launch -n deepscaler {file}"
    if name == "docker":
        return f"docker build -f {file} -t {values.image} .    # in a checkout of this program"
    split = "".join(f" --set {setting}" for setting in values.split) if name in RAY else ""
    return f"sbatch {file} {values.recipe} {values.run_dir}{split}"


COMMANDS = {"deploy": deploy}
