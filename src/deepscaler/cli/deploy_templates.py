"""The files of `deploy/` with a user's values in place of the examples in them.

The templates are whole files that tests check; a value is put in where its example stands. A place that is not found as
often as expected is an error of ours: the template was changed without this table.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDER = next((p for p in (_PACKAGE / "deploy", _PACKAGE.parents[1] / "deploy") if p.is_dir()), _PACKAGE / "deploy")
FILES = {
    "slurm-torchrun": "slurm-torchrun.sbatch",
    "slurm-ray": "slurm-ray.sbatch",
    "skypilot": "skypilot.yaml",
    "kuberay": "kuberay.yaml",
    "docker": "Dockerfile",
}
RAY = ("slurm-ray", "kuberay")  # learner and samplers on GPUs of their own


@dataclass(frozen=True, slots=True)
class Deployment:
    """nodes, gpus: machines, and GPUs of each. learner_gpus: of all together, with Ray; samplers have the others.
    recipe: a path, or the name of one of the package. run_dir: as all machines see it. image: with Ray on Kubernetes.
    accelerator: the kind of GPU, as SkyPilot names it.
    """

    nodes: int
    gpus: int
    learner_gpus: int
    recipe: str
    run_dir: str
    image: str
    accelerator: str

    @property
    def rollout_gpus(self) -> int:
        return self.nodes * self.gpus - self.learner_gpus

    @property
    def split(self) -> list[str]:
        """Settings of a run over Ray."""
        return [f"cluster.learner_gpus={self.learner_gpus}", f"cluster.rollout_gpus={self.rollout_gpus}"]


def rendered(name: str, values: Deployment) -> str:
    """The template of this name in FILES. Raises ValueError where the package lacks it."""
    path = FOLDER / FILES[name]
    try:
        text = path.read_text()
    except OSError as error:
        raise ValueError(
            f"{path}: the template cannot be read ({error.strerror}); install the package again"
        ) from error
    for pattern, count, new in _places(name, values):
        text, found = re.subn(pattern, _literally(new), text, flags=re.MULTILINE)
        assert found == count, f"{path}: {pattern} occurs {found} times, {count} expected"
    return text


def _places(name: str, values: Deployment) -> Iterator[tuple[str, int, str]]:
    """(pattern, how often it occurs, what replaces it)."""
    if name.startswith("slurm"):
        yield r"^#SBATCH --nodes=\d+$", 1, f"#SBATCH --nodes={values.nodes}"
        yield r"^#SBATCH --gpus-per-node=\d+$", 1, f"#SBATCH --gpus-per-node={values.gpus}"
        if name == "slurm-torchrun":
            yield r"SLURM_GPUS_PER_NODE:-\d+", 1, f"SLURM_GPUS_PER_NODE:-{values.gpus}"
    elif name == "skypilot":
        yield r"^num_nodes: \d+$", 1, f"num_nodes: {values.nodes}"
        yield r"^  accelerators: .*$", 1, f"  accelerators: {values.accelerator}:{values.gpus}"
        yield r"^  RECIPE: .*$", 1, f"  RECIPE: {values.recipe}"
        yield r"^  RUN_DIR: .*$", 1, f"  RUN_DIR: {values.run_dir}"
    elif name == "kuberay":
        yield r"image: registry\.example\.org/deepscaler:[\d.]+", 2, f"image: {values.image}"
        yield r"replicas: \d+$", 1, f"replicas: {values.nodes}"
        yield r"(?<=min|max)Replicas: \d+$", 2, f"Replicas: {values.nodes}"
        yield r"nvidia\.com/gpu: \"\d+\"", 1, f'nvidia.com/gpu: "{values.gpus}"'
        yield r"deepscaler train \S+ --run-dir \S+", 1, f"deepscaler train {values.recipe} --run-dir {values.run_dir}"
        learner, rollout = values.split
        yield r"--set cluster\.learner_gpus=\d+ --set cluster\.rollout_gpus=\d+$", 1, f"--set {learner} --set {rollout}"


def _literally(text: str) -> Callable[[re.Match[str]], str]:
    return lambda _: text
