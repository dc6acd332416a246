"""The files of deploy/: scripts a shell accepts, YAML that its reader knows, commands of ours with known settings."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from deepscaler.cli.main import app
from deepscaler.config import Recipe, load_recipe

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = sorted(DEPLOY.glob("*.sbatch"))
FILES = [*sorted(DEPLOY.iterdir()), ROOT / "docs" / "deploy.md"]
VALUES = {"recipe": "deepscaler-1.5b", "RECIPE": "deepscaler-1.5b", "run_dir": "runs/x", "RUN_DIR": "runs/x"}


def commands(text: str) -> Iterator[list[str]]:
    """The arguments of every `deepscaler` command in a file, variables replaced."""
    joined = re.sub(r"\\\n\s*|(?<=[^\n:])\n\s+(?=--set)", " ", text)
    for found in re.finditer(r"(?<![\w/.-])deepscaler (train|doctor)\b([^\n`&|]*)", joined):
        arguments = re.sub(r"\s#.*|\s*[…)]*$", "", found[2])
        replaced = re.sub(r"\$\{?(\w+)\}?(:\$\w+)?", lambda name: VALUES.get(name[1], "127.0.0.1:6379"), arguments)
        yield [found[1], *(word for word in shlex.split(replaced) if word not in ("127.0.0.1:6379", "$@", "…"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_are_those_of_the_program_and_their_settings_exist(path: Path) -> None:
    found = list(commands(path.read_text()))
    assert found or path.name == "Dockerfile"
    for name, *arguments in found:
        command = get_command(app).commands[name]  # type: ignore[attr-defined]
        params = command.make_context(name, arguments).params
        if params["recipe"] is not None:
            assert isinstance(load_recipe(params["recipe"], params["overrides"] or []), Recipe)


def test_the_commands_of_a_script_are_found() -> None:
    (trained,) = [words for words in commands((DEPLOY / "slurm-ray.sbatch").read_text()) if words[0] == "train"][-1:]
    assert trained[1] == "deepscaler-1.5b" and "cluster.kind=ray" in trained


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_accepts_the_script(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=10)
    if checker := shutil.which("shellcheck"):
        subprocess.run([checker, str(script)], check=True, timeout=60)
    options = re.findall(r"^#SBATCH (--[\w-]+)=", script.read_text(), re.MULTILINE)
    assert {"--nodes", "--time", "--signal", "--gpus-per-node"} <= set(options)


FAKES = {
    "scontrol": 'if [ "$1" = show ]; then echo node0; else echo "scontrol $*" >>"$LOG"; fi',
    # doctor runs at once; a training command in the way that the real one does
    "srun": """
trap 'echo "srun was signalled" >>"$LOG"; exit 99' TERM
while [ "${1#--}" != "$1" ]; do shift; done
"$@" & wait $!""",
    "deepscaler": """
if [ "$1" = doctor ]; then exit 0; fi
trap 'echo "saved" >>"$LOG"; exit 143' TERM
echo "training" >>"$LOG"
for _ in $(seq 100); do sleep 0.1; done""",
    # dies at once by the signal, as torchrun nearly does; gives the exit code of its child
    "torchrun": """
trap 'echo "torchrun was signalled" >>"$LOG"; exit 99' TERM
deepscaler train & wait $! && exit 0
exit 1""",
    "ray": """
trap 'echo "ray was signalled" >>"$LOG"; exit 99' TERM
while [ "$1" != -- ]; do shift; done; shift
"$@" & wait $! && exit 0
exit 143""",
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_the_warning_before_the_time_limit_saves_the_run_and_queues_it_again(script: Path, tmp_path: Path) -> None:
    log, run_dir = tmp_path / "log", tmp_path / "shared" / "run"
    run_dir.mkdir(parents=True)
    for name, body in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    number = str(os.getpid())  # no other job on this machine has it
    slurm = {"SLURM_JOB_ID": number, "SLURM_JOB_NODELIST": "node0", "SLURM_NNODES": "1"}
    environment = {**os.environ, **slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(log)}
    job = subprocess.Popen(["bash", str(script), "deepscaler-1.5b", str(run_dir)], env=environment)
    try:
        await_line(log, "training")
        job.send_signal(signal.SIGTERM)  # to the batch shell alone, as --signal=B: does
        job.wait(20)
    finally:
        job.kill()
    assert log.read_text().splitlines() == ["training", "saved", f"scontrol requeue {number}"]


def await_line(log: Path, line: str) -> None:
    deadline = time.monotonic() + 20
    while not (log.exists() and line in log.read_text().splitlines()):
        assert time.monotonic() < deadline, "the script did not begin to train"
        time.sleep(0.05)


TASK_KEYS = {"name", "workdir", "num_nodes", "resources", "volumes", "envs", "setup", "run"}
RESOURCE_KEYS = {"infra", "accelerators", "image_id", "job_recovery"}


def test_skypilot_knows_every_key() -> None:
    task = yaml.safe_load((DEPLOY / "skypilot.yaml").read_text())
    assert set(task) <= TASK_KEYS and set(task["resources"]) <= RESOURCE_KEYS
    assert isinstance(task["num_nodes"], int) and re.fullmatch(r"[\w-]+:\d+", task["resources"]["accelerators"])
    assert all(isinstance(value, str) for value in task["envs"].values())
    assert set(task["volumes"]) == {"/runs"} and task["envs"]["RUN_DIR"].startswith("/runs/")
    for key in ("setup", "run"):
        subprocess.run(["bash", "-n"], input=task[key], text=True, check=True, timeout=10)


JOB_KEYS = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "rayClusterSpec"}
CLUSTER_KEYS = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs"}
GROUP_KEYS = {"rayStartParams", "template"}
WORKER_KEYS = GROUP_KEYS | {"groupName", "replicas", "minReplicas", "maxReplicas"}


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def test_kuberay_knows_every_key_and_pods_are_safe() -> None:
    claim, job = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob") and set(job["spec"]) == JOB_KEYS
    assert set(cluster) == CLUSTER_KEYS and set(cluster["headGroupSpec"]) == GROUP_KEYS
    assert all(set(group) == WORKER_KEYS for group in cluster["workerGroupSpecs"])
    assert cluster["authOptions"]["mode"] == "token"
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for pod in pods(cluster):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] != 0
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert re.search(r":[\d.]+$", container["image"])


def test_kuberay_has_as_many_gpus_as_the_command_asks_for_and_the_ray_of_the_image() -> None:
    _, job = yaml.safe_load_all((DEPLOY / "kuberay.yaml").read_text())
    cluster = job["spec"]["rayClusterSpec"]
    asked = sum(map(int, re.findall(r"cluster\.(?:learner|rollout)_gpus=(\d+)", job["spec"]["entrypoint"])))
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert asked == group["replicas"] * int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text()


def test_the_image_is_pinned_runs_without_root_and_holds_no_secret() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    lines = re.sub(r"\\\n\s*", "", text).splitlines()
    steps = [line.partition(" ")[::2] for line in lines if line and not line.startswith("#")]
    (base,) = [rest for step, rest in steps if step == "FROM"]
    assert re.search(r":[\d.]+\.\d+(-[\w.-]+)?$", base), "a version, not `latest`"
    (user,) = [rest for step, rest in steps if step == "USER"]
    assert user not in ("0", "root")
    assert not re.search(r"(?i)(token|password|secret|api_key)\s*=", text)
    assert "ADD" not in [step for step, _ in steps]
    for copied in (rest.split()[:-1] for step, rest in steps if step == "COPY"):
        assert all((ROOT / name).exists() for name in copied), copied
    (extras,) = re.findall(r"'\.\[([\w,]+)\]'", text)
    assert {"hub", "cluster"} <= set(extras.split(","))


def deployed(tmp_path: Path, name: str, *options: str) -> str:
    """What `deepscaler deploy` writes; what it prints ends with the file's name and the command that submits it."""
    arguments = ["deploy", name, "--to", str(tmp_path), "--recipe", "deepscaler-1.5b", *options]
    done = CliRunner().invoke(app, arguments)
    if done.exception is not None:
        raise done.exception
    path = Path(done.output.splitlines()[0])
    assert path.parent == tmp_path and path.name in {each.name for each in DEPLOY.iterdir()}
    return path.read_text() + "\n" + done.output.splitlines()[1] + "\n"


SIZES = ("--nodes", "3", "--gpus", "4", "--run-dir", "/runs/mine")


@pytest.mark.parametrize("name", ["slurm-torchrun", "slurm-ray", "skypilot", "kuberay", "docker"])
def test_a_rendered_file_differs_from_its_template_only_where_values_stand(name: str, tmp_path: Path) -> None:
    text = deployed(tmp_path, name, *SIZES, "--image", "ghcr.io/me/mine:1.2", "--accelerator", "A100-80GB")
    *lines, submit = text.rstrip().splitlines()
    (template,) = [path for path in DEPLOY.iterdir() if (tmp_path / path.name).exists()]
    old = template.read_text().rstrip().splitlines()
    assert len(lines) == len(old) + 1 and sum(a != b for a, b in zip(lines, old, strict=False)) <= 8
    assert deployed(tmp_path, name, *SIZES, "--image", "ghcr.io/me/mine:1.2", "--accelerator", "A100-80GB") == text
    for words in commands(text):
        get_command(app).commands[words[0]].make_context(words[0], words[1:])  # type: ignore[attr-defined]
    assert template.name in submit


def test_the_gpus_of_a_rendered_job_are_those_that_were_asked_for(tmp_path: Path) -> None:
    script = deployed(tmp_path, "slurm-ray", *SIZES, "--learner-gpus", "4")
    assert "#SBATCH --nodes=3\n#SBATCH --ntasks-per-node=1\n#SBATCH --gpus-per-node=4\n" in script
    assert "deepscaler-1.5b /runs/mine --set cluster.learner_gpus=4 --set cluster.rollout_gpus=8" in script
    assert "SLURM_GPUS_PER_NODE:-4" in deployed(tmp_path, "slurm-torchrun", *SIZES)
    task = yaml.safe_load(deployed(tmp_path, "skypilot", *SIZES, "--accelerator", "A100").rpartition("\nsky")[0])
    assert (task["num_nodes"], task["resources"]["accelerators"]) == (3, "A100:4")
    assert task["envs"]["RUN_DIR"] == "/runs/mine"
    text = deployed(tmp_path, "kuberay", *SIZES, "--image", "ghcr.io/me/mine:1.2").rpartition("\nkubectl")[0]
    _, job = yaml.safe_load_all(text)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    assert {group[key] for key in ("replicas", "minReplicas", "maxReplicas")} == {3}
    assert (container["resources"]["limits"]["nvidia.com/gpu"], container["image"]) == ("4", "ghcr.io/me/mine:1.2")
    assert "--run-dir /runs/mine" in job["spec"]["entrypoint"]
    assert sum(map(int, re.findall(r"_gpus=(\d+)", job["spec"]["entrypoint"]))) == 12


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("slurm", (), "'slurm' is no template; expected slurm-torchrun"),
        ("kuberay", ("--image", "mine"), "--image 'mine' cannot be written into a job file"),
        ("kuberay", ("--run-dir", "/runs/$(date)"), "--run-dir"),
        ("kuberay", ("--run-dir", "/home/me"), "share is /runs"),
        ("slurm-ray", ("--nodes", "1", "--gpus", "1"), "leave none to the samplers"),
        ("skypilot", ("--recipe", "deepscaler-15b"), "deepscaler-15b: no such recipe"),
        ("slurm-ray", ("--learner-gpus", "7", "--recipe", "deepscaler-1.5b-x"), "no such recipe"),
    ],
)
def test_values_that_cannot_work_are_refused_and_nothing_is_written(
    name: str, options: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        deployed(tmp_path / "jobs", name, *options)
    assert not (tmp_path / "jobs").exists()


def test_a_file_that_somebody_edited_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM mine\n")
    with pytest.raises(ValueError, match="exists and differs"):
        deployed(tmp_path, "docker")
