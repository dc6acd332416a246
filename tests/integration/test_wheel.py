"""What people install: a wheel, used in a directory that is no checkout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import deepscaler

ROOT = Path(__file__).resolve().parents[2]
SHORT = (
    *("sft.steps=8", "sft.warmup_steps=2", "num_steps=2", "rollout.prompts_per_step=4", "evaluation.num_problems=4"),
    *("evaluation.during_training_problems=2", "evaluation.num_samples=2"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as pip unpacks it from the wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in ("src", "recipes", "deploy"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    built = [*pip, "wheel", str(source), "--no-deps", "--no-build-isolation", "--no-index", "-w", str(folder)]
    subprocess.run(built, check=True, timeout=200, capture_output=True)
    (wheel,) = folder.glob("deepscaler-*.whl")
    assert wheel.name.startswith(f"deepscaler-{deepscaler.__version__}-")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed: Path, directory: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "deepscaler.cli.main", *arguments]
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_the_wheel_holds_every_recipe_and_what_pages_need(installed: Path) -> None:
    for name in (p.name for p in (ROOT / "recipes").glob("*.toml")):
        assert (installed / "deepscaler" / "recipes" / name).read_text() == (ROOT / "recipes" / name).read_text()
    for path in (ROOT / "deploy").iterdir():
        assert (installed / "deepscaler" / "deploy" / path.name).read_bytes() == path.read_bytes()
    for path in (ROOT / "src" / "deepscaler").rglob("*"):
        if path.suffix in {".html", ".css", ".js", ".json", ".toml", ".typed"}:
            assert (installed / "deepscaler" / path.relative_to(ROOT / "src" / "deepscaler")).is_file(), path


def test_quickstart_report_and_explain_work_outside_a_checkout(installed: Path, tmp_path: Path) -> None:
    settings = [part for setting in SHORT for part in ("--set", setting)]
    run(installed, tmp_path, "quickstart", "--run-dir", "run", *settings)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert Path(tmp_path / summary["report"]).is_file() and Path(tmp_path / summary["model"]).is_dir()
    run(installed, tmp_path, "report", str((tmp_path / summary["report"]).parent), "--out", "again.html")
    assert (tmp_path / "again.html").stat().st_size > 10_000
    run(installed, tmp_path, "deploy", "slurm-torchrun", "--to", "jobs", "--recipe", "deepscaler-1.5b")
    assert (tmp_path / "jobs" / "slurm-torchrun.sbatch").is_file()
    assert "deepscaler-1.5b" in run(installed, tmp_path, "explain", "deepscaler-1.5b")


def test_the_version_is_written_once() -> None:
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {deepscaler.__version__}\n" in citation
    assert '\nversion = "' not in (ROOT / "pyproject.toml").read_text()
