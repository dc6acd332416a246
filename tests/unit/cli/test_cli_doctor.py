"""doctor describes any machine: with torch, without it, with packages missing or too old, and what a recipe needs."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import nullcontext
from importlib import metadata
from pathlib import Path

import pytest

from deepscaler.cli import doctor
from deepscaler.cli.diagnosis import machine, nodes, recipe
from deepscaler.cli.diagnosis.finding import GIB, Finding
from deepscaler.cluster import ray_nodes, ray_session
from deepscaler.config import load_recipe
from deepscaler.config.memory import ModelShape

QUICKSTART = Path(__file__).parents[3] / "recipes" / "quickstart.toml"


def findings(asked: doctor.Asked | None = None) -> dict[str, Finding]:
    return {finding.topic: finding for finding in doctor.diagnose(asked or doctor.Asked())}


def test_this_machine_is_described() -> None:
    found = findings()
    for topic in (
        "python",
        "cores",
        "memory",
        "disk",
        "open files",
        "torch",
        "gpu",
        "core packages",
        "extra dev",
        "vllm",
    ):
        assert found[topic].text
    assert found["core packages"].status == "ok"
    assert metadata.version("torch") in found["torch"].text
    assert machine.usable_cores() > 0


def test_an_extra_with_a_missing_package_says_how_to_add_it(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = ["pytest>=8; extra == 'track'", "surely-not-installed>=2; extra == 'track'"]
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    found = findings()["extra track"]
    assert found.status == "note"
    assert "surely-not-installed is not installed" in found.text
    assert "'.[track]'" in found.text


def test_a_package_that_is_too_old_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "requires", lambda name: ["pytest>=9999"])
    found = findings()["core packages"]
    assert found.status == "missing"
    assert "pytest>=9999 is needed" in found.text


def test_a_small_amount_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    for size, status, text in ((GIB, "note", "1.0 GiB; "), (8 * GIB, "ok", "8.0 GiB"), (None, "note", "unknown")):
        monkeypatch.setattr(machine, "usable_memory", lambda size=size: size)
        found = findings()["memory"]
        assert found.status == status and found.text.startswith(text)


def test_a_directory_that_does_not_exist_yet_has_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert machine.free_disk(tmp_path / "runs" / "mine") > 0


def test_few_open_files_are_told_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    for limits, status, text in (
        ((1024, 1048576), "note", "`ulimit -n 65536`"),
        ((1024, 1024), "note", "hard limit"),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "ok", "unlimited"),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, limits=limits: limits)
        found = findings()["open files"]
        assert found.status == status and text in found.text


def test_a_driver_that_does_not_answer_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(*_: object, timeout: float, **__: object) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    monkeypatch.setattr(machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(machine.subprocess, "run", silent)
    assert machine.nvidia_driver() == "unknown"


def of_recipe(*overrides: str) -> dict[str, Finding]:
    return findings(doctor.Asked(QUICKSTART, overrides))


@pytest.fixture
def no_vllm(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("deepscaler.engines.vllm.installation.vllm_version", lambda: None)
    yield


def test_the_quickstart_lacks_nothing_on_a_machine_that_runs_the_tests() -> None:
    found = of_recipe()
    for topic in ("engine", "model", "data", "memory of a step", "checkpoints"):
        assert found[topic].status == "ok", found[topic]


def test_an_engine_that_is_not_installed_is_missing(no_vllm: None) -> None:
    found = of_recipe("rollout.engine=vllm")["engine"]
    assert found.status == "missing" and "vLLM is not installed" in found.text


@pytest.mark.parametrize(("here", "status"), [(2, "missing"), (4, "ok"), (0, "ok")])
def test_a_vllm_server_over_more_gpus_than_there_are_is_missing(
    monkeypatch: pytest.MonkeyPatch, here: int, status: str
) -> None:
    monkeypatch.setattr(recipe, "num_gpus", lambda: here)
    monkeypatch.setattr(recipe.parts, "require_engine", lambda name, section: None)
    monkeypatch.setattr(recipe, "_gpu_memory", lambda *_: Finding("memory of a step", "ok", ""))
    servers = ("rollout.engine=vllm_server", "rollout.vllm_python=p", "model.float32_head=false")
    found = of_recipe(*servers, "rollout.vllm_tensor_parallel=2", "rollout.vllm_pipeline_parallel=2")["engine"]
    assert found.status == status
    assert ("takes 4 GPUs (rollout.vllm_tensor_parallel" in found.text) == (status == "missing")


def test_a_model_is_looked_for_on_disk_and_in_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert recipe._hub("model", "models", "/not/here").status == "missing"
    assert recipe._hub("model", "models", "some/model").status == "missing"
    monkeypatch.delenv("HF_HUB_OFFLINE")
    assert recipe._hub("model", "models", "some/model").status == "note"
    (tmp_path / "models--some--model").mkdir()
    assert recipe._hub("model", "models", "some/model").status == "ok"


def test_too_little_memory_or_disk_names_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "usable_memory", lambda: GIB // 100)
    monkeypatch.setattr(recipe, "free_disk", lambda path: 1)
    found = of_recipe()
    assert found["memory of a step"].status == "missing" and "training.processes" in found["memory of a step"].text
    assert found["checkpoints"].status == "missing" and "checkpoint.keep" in found["checkpoints"].text


def test_sizes_of_a_model_that_is_not_here_are_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelShape, "of_recipe", lambda recipe: None)
    assert of_recipe()["sizes"].status == "note"


def test_more_gpus_than_this_machine_has_are_noted() -> None:
    few = of_recipe("cluster.kind=ray", "cluster.learner_gpus=1", "cluster.rollout_gpus=4000")["cluster"]
    assert few.status == "note" and "4,001 GPUs are asked for" in few.text


def test_a_cluster_that_does_not_answer_is_missing() -> None:
    found = list(nodes.nodes("127.0.0.1:1", Path(), None))
    assert [finding.status for finding in found] == ["missing"] and "cannot be used" in found[0].text


def test_machines_of_a_cluster_are_listed_and_the_workers_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    there = [ray_nodes.Machine("10.0.0.1", 8, 0, None), ray_nodes.Machine("10.0.0.2", 8, 2, "it has torch 1.0")]
    monkeypatch.setattr(ray_nodes, "machines", lambda run_dir: iter(there))
    monkeypatch.setattr(ray_session, "ray_session", lambda address, local: nullcontext())
    chosen = load_recipe(QUICKSTART, ["cluster.kind=ray", "cluster.learner_gpus=1", "cluster.rollout_gpus=2"])
    found = list(nodes.nodes("10.0.0.1:6379", tmp_path, chosen))
    assert [(finding.topic, finding.status) for finding in found] == [
        ("node", "ok"),
        ("node", "missing"),
        ("workers", "missing"),
    ]
    assert "3 GPUs" in found[2].text and "16 cores and 2 GPUs" in found[2].text


def test_a_machine_with_other_versions_or_another_directory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_nodes, "_versions", lambda: {"torch": "2.13.0", "python": "3.12.0"})
    other = ray_nodes.Seen({"torch": "2.11.0", "python": "3.12.0"}, "x")
    assert "torch 2.11.0 instead of 2.13.0" in (ray_nodes._complaint("n", other, "x", Path("runs")) or "")
    same = {"torch": "2.13.0", "python": "3.12.0"}
    assert "does not see" in (ray_nodes._complaint("n", ray_nodes.Seen(same, None), "x", Path("runs")) or "")
    assert ray_nodes._complaint("n", ray_nodes.Seen(same, "x"), "x", Path("runs")) is None


def test_what_is_missing_fails_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.show(asked=doctor.Asked(), as_json=False)
    monkeypatch.setattr(metadata, "requires", lambda name: ["surely-not-installed"])
    assert not doctor.show(asked=doctor.Asked(), as_json=True)
    assert "surely-not-installed is not installed" in capsys.readouterr().out
