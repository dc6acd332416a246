"""What a new Python process shows only: which packages a part loads, and what it does without one or after a fork."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

NOT_LOADED = ("torch", "transformers", "numpy", "multiprocessing", "subprocess", "socket", "deepscaler.rewards")


def test_nothing_heavy_is_loaded() -> None:
    code = f"import sys, deepscaler.answers; print([name for name in {NOT_LOADED} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_configuration_loads_without_torch() -> None:
    modules = "config.load, deepscaler.config.explain, deepscaler.config.derived, deepscaler.config.presets"
    code = (
        f"import sys, deepscaler.{modules}\n"
        "print([m for m in ('torch', 'transformers', 'ray', 'vllm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_doctor_works_without_torch() -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None\n"
        "sys.argv = ['deepscaler', 'doctor', '--json']\n"
        "from deepscaler.cli.main import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1, done.stderr  # torch is missing
    findings = {finding["topic"]: finding for finding in json.loads(done.stdout)}
    assert findings["torch"]["status"] == "missing"
    assert findings["gpu"]["status"] == "note"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_process_is_watched_as_well() -> None:
    code = (
        "import os, sys, time\n"
        "from deepscaler.data.time_limit import map_within\n"
        "def work(seconds):\n"
        "    end = time.monotonic() + seconds\n"
        "    while time.monotonic() < end: pass\n"
        "map_within(5.0, work, [0.01])\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    try:\n"
        "        map_within(0.1, work, [30.0])\n"
        "    except TimeoutError:\n"
        "        os._exit(7)\n"
        "    os._exit(1)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 7
