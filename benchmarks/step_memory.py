"""Peak memory of whole training steps on CPU beside what `deepscaler explain` expects.

    python benchmarks/step_memory.py [--sizes tiny small 135m] [--processes 2] [--write]

8 prompts with 8 completions of 192 tokens each, sampled and trained on twice. Measured is the proportional set size of
all processes together, four times a second: memory that they share counts once. Prints JSON; --write puts the table
into docs/benchmarks.md. About ten minutes, nearly all of it for the largest.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from model_sizes import SIZES, build
from policy_learner import make_learner
from records import machine, write_table

from deepscaler import cpu
from deepscaler.cluster.helper import EngineSettings
from deepscaler.cluster.processes import divided, sharded_sampler, start_helpers
from deepscaler.config.memory import ModelShape, cpu_peak
from deepscaler.config.models import Recipe
from deepscaler.config.sections.curriculum import StageSection
from deepscaler.config.sections.data import DataSection
from deepscaler.config.sections.model import ModelSection
from deepscaler.config.sections.rollout import RolloutSection
from deepscaler.config.sections.training import OptimizerSection, TrainingSection
from deepscaler.modeling.attention import NAME
from deepscaler.training.replica import policy_computer
from deepscaler.types import Request, SamplingParams, TrainSample

PROMPTS, GROUP, PROMPT_TOKENS, COMPLETION_TOKENS = 8, 8, 32, 192
SIZES["135m"] = {  # the shapes of SmolLM2-135M
    "vocab_size": 49_152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def recipe(processes: int) -> Recipe:
    return Recipe(
        name="memory",
        num_steps=2,
        model=ModelSection(path="unused"),
        data=DataSection(source="unused.json", max_prompt_tokens=PROMPT_TOKENS),
        rollout=RolloutSection(prompts_per_step=PROMPTS, group_size=GROUP),
        stages=(StageSection(name="s", max_completion_tokens=COMPLETION_TOKENS),),
        optimizer=OptimizerSection(learning_rate=1e-5),
        training=TrainingSection(processes=processes),
    )


class PeakOfAll(threading.Thread):
    """The largest sum of the proportional set sizes of this process and its children, in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0
        self.start()

    def run(self) -> None:
        while True:
            children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
            self.peak = max(self.peak, sum(_proportional(pid) for pid in [os.getpid(), *children]))
            time.sleep(0.25)


def _proportional(pid: int | str) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has ended
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def measure(size: str, processes: int) -> dict[str, Any]:
    cpu.prepare(threads=1)
    watch, settings = PeakOfAll(), recipe(processes)
    model, rng = build(size, NAME), np.random.default_rng(0)
    computer, engine = policy_computer(model, settings), divided(EngineSettings(frozenset(), 256), processes)
    shape = ModelShape.of_config(model.config.to_dict())
    wanted = [Request(str(i), rng.integers(2, 1000, PROMPT_TOKENS).astype(np.int32), GROUP) for i in range(PROMPTS)]
    start = time.monotonic()
    with start_helpers(computer, engine, processes - 1) as helpers:
        sampler = sharded_sampler(computer, engine, helpers)
        learner = make_learner(model, settings, computer, helpers)
        for step in range(2):
            rollouts = list(sampler.generate(wanted, SamplingParams(COMPLETION_TOKENS, step=step)))
            total = sum(r.num_tokens for r in rollouts)
            samples = [
                TrainSample(
                    r.prompt_ids,
                    r.completion_ids,
                    r.rollout_logprobs,
                    float(rng.normal()),
                    np.full(r.num_tokens, 1 / total, np.float32),
                    0,
                )
                for r in rollouts
            ]
            learner.update([samples])
    expected = cpu_peak(settings, shape, processes)
    return {
        "measured_mib": watch.peak / 2**20,
        "expected_mib": expected.total / 2**20,
        "parts_mib": {name: value / 2**20 for name, value in asdict(expected).items()},
        "step_s": (time.monotonic() - start) / 2,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["tiny", "small", "135m"])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", choices=list(SIZES), help="internal: one size in this process")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.processes)))
        return
    result = {}
    for size in arguments.sizes:
        command = [sys.executable, __file__, "--measure", size, "--processes", str(arguments.processes)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=3600, check=True)
        result[size] = json.loads(done.stdout.splitlines()[-1])
    info = machine()
    print(json.dumps({"machine": info, "processes": arguments.processes, **result}, indent=1))
    if arguments.write:
        rows = [
            (
                size,
                f"{r['measured_mib']:,.0f}",
                f"{r['expected_mib']:,.0f}",
                f"{r['expected_mib'] / r['measured_mib']:.2f}",
            )
            for size, r in result.items()
        ]
        columns = ("size", "measured, MiB", "expected, MiB", "expected / measured")
        work = f"{PROMPTS} x {GROUP} completions of {COMPLETION_TOKENS} tokens, two steps"
        write_table("step_memory.py", columns, rows, f"{arguments.processes} processes; {work}.", info)


if __name__ == "__main__":
    main()
