"""examples/loop_by_hand.py runs, publishes what it trained, and prints the figures it explains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from tiny_run import write_model

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "loop_by_hand.py"
STEP = re.compile(r"step +(\d+)  reward (\S+)  length +(\S+) tokens  mismatch (\S+)  weights (\w{8}) on both sides")
HELD_OUT = re.compile(r"held-out problems: ([\d.]+)% -> ([\d.]+)%")


def run_example(directory: Path, *arguments: object) -> str:
    """Standard output of the example with `directory` as the working directory."""
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=directory, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_makes_a_base_and_trains_it(tmp_path: Path) -> None:
    output = run_example(tmp_path, "--steps", 3, "--warm-up", 25, "--seed", 4)
    steps = STEP.findall(output)
    assert [int(number) for number, *_ in steps] == [1, 2, 3]
    assert all(0 <= float(reward) <= 1 and 0 < float(length) <= 64 for _, reward, length, _, _ in steps)
    # A step that trained on something publishes other weights, and only such a step. Digests that differ end the run.
    for (*_, earlier), (_, _, _, mismatch, weights) in pairwise(steps):
        assert (weights != earlier) == (mismatch != "none")
        assert mismatch == "none" or float(mismatch) < 1e-4
    assert HELD_OUT.search(output)
    assert (tmp_path / "runs" / "bases").is_dir()


def test_the_example_starts_from_a_model_directory(tmp_path: Path) -> None:
    output = run_example(tmp_path, "--steps", 1, "--model", write_model(tmp_path / "model"))
    assert len(STEP.findall(output)) == 1
    assert HELD_OUT.search(output)
    assert not (tmp_path / "runs").exists()
