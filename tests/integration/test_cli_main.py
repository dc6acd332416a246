"""The command line: help loads none of the heavy parts, and a mistake is one message, not a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes"


def deepscaler(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1", **environment}
    command = [sys.executable, "-m", "deepscaler.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=120)


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], []])
def test_help_loads_neither_torch_nor_the_recipe_models(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        f"sys.argv = ['deepscaler', *{arguments!r}]\n"
        "from deepscaler.cli.main import main\n"
        "try:\n"
        "    main()\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = ('torch', 'transformers', 'numpy', 'pyarrow', 'deepscaler.config')\n"
        "print('LOADED', [m for m in heavy if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "Usage: deepscaler" in done.stdout
    assert done.stdout.splitlines()[-1] == "LOADED []"


def test_help_names_every_command() -> None:
    text = deepscaler("--help").stdout
    commands = (
        "sft",
        "train",
        "eval",
        "compare",
        "report",
        "quickstart",
        "explain",
        "presets",
        "doctor",
        "deploy",
        "grade",
    )
    for command in commands:
        assert f" {command} " in text


@pytest.mark.parametrize("name", ["deepscaler-1.5b", "quickstart"])
def test_explain_fits_80_columns_and_shows_origins_and_sizes(name: str) -> None:
    done = deepscaler("explain", str(RECIPES / f"{name}.toml"), "--set", "seed=7", "--world-size", "2")
    assert done.returncode == 0, done.stderr
    assert max(len(line.rstrip()) for line in done.stdout.splitlines()) <= 80
    assert "…" not in done.stdout
    for expected in (
        f"{name}.toml",
        "--set",
        "default",
        "preset '",
        "sequences per update",
        "per rank: sampled",
    ):
        assert expected in done.stdout


def test_explain_for_machines() -> None:
    done = deepscaler("explain", str(RECIPES / "deepscaler-1.5b.toml"), "--json", "--set", "num_steps=1000")
    answer = json.loads(done.stdout)
    assert set(answer) == {"name", "recipe_hash", "settings", "derived", "warnings"}
    by_key = {row["key"]: row for row in answer["settings"]}
    assert by_key["num_steps"] == {
        "key": "num_steps",
        "value": 1000,
        "unit": "steps",
        "origin": "--set",
        "doc": by_key["num_steps"]["doc"],
    }
    assert any("stages.2 (24k) is never reached" in warning for warning in answer["warnings"])


def test_presets_lists_every_source() -> None:
    answer = json.loads(deepscaler("presets", "--json").stdout)
    assert len(answer) == 9
    text = " ".join(deepscaler("presets").stdout.split())
    for name, preset in answer.items():
        assert f"{name} {preset['source']}" in text


def test_a_bad_recipe_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    recipe = tmp_path / "bad.toml"
    recipe.write_text("nmae = 'x'\n")
    done = deepscaler("explain", str(recipe))
    assert done.returncode == 2
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith(f"deepscaler: error: {recipe}: ")
    assert "did you mean name?" in done.stderr


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = deepscaler("explain", str(tmp_path / "none.toml"), DEEPSCALER_DEBUG="1")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


@pytest.mark.parametrize("arguments", [["explode"], ["train", "x.toml"], ["explain", "x.toml", "--world-size", "0"]])
def test_wrong_usage_is_exit_code_2(arguments: list[str]) -> None:
    done = deepscaler(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("raised", "code", "message"),
    [
        ("ValueError('no such model')", 1, "deepscaler: error: no such model"),
        (
            "OSError(28, 'No space left on device', 'runs/x')",
            1,
            "deepscaler: error: runs/x: No space left on device",
        ),
        ("ModuleNotFoundError('no', name='tensorboard')", 1, "the package 'tensorboard' is not installed"),
        ("KeyboardInterrupt()", 130, ""),
    ],
)
def test_what_a_command_raises_becomes_a_message(raised: str, code: int, message: str) -> None:
    program = (
        "import sys\n"
        "from deepscaler.cli import main\n"
        "@main.app.command('fail')\n"
        f"def fail() -> None:\n    raise {raised}\n"
        "sys.argv = ['deepscaler', 'fail']\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_programming_error_keeps_its_traceback() -> None:
    program = (
        "import sys\n"
        "from deepscaler.cli import main\n"
        "@main.app.command('fail')\n"
        "def fail() -> None:\n    assert 1 == 2\n"
        "sys.argv = ['deepscaler', 'fail']\n"
        "main.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


def test_training_loads_without_the_optional_packages_and_leaves_the_collector_as_it_was() -> None:
    code = (
        "import gc, sys\n"
        "for name in ('aiohttp', 'starlette', 'uvicorn', 'vllm', 'trl'):\n"
        "    sys.modules[name] = None\n"
        "from deepscaler.cli.startup import loading\n"
        "try:\n"
        "    with loading():\n"
        "        assert not gc.isenabled()\n"
        "        import deepscaler.no_such_module\n"
        "except ModuleNotFoundError:\n"
        "    assert gc.isenabled()\n"
        "with loading():\n"
        "    from deepscaler.loop import build, loop; from deepscaler.toy import base_model, quickstart\n"
        "frozen = gc.get_freeze_count()\n"
        "assert gc.isenabled() and frozen > 100_000\n"
        "with loading():\n"
        "    assert gc.isenabled()\n"
        "assert gc.get_freeze_count() == frozen\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
