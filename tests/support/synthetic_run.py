"""A made-up run directory with the dynamics of the published run, written by the real writer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from deepscaler.observability.rollout_metrics import rollout_metrics
from deepscaler.observability.run_directory import RunDirectory
from deepscaler.types import FinishReason, Group, Outcome, Problem, Rollout, ScoredGroup, Verdict

BUDGETS = (96, 192, 288)
SETS = ("chain-3", "chain-4", "chain-5", "chain-7", "chain-9")
HOSTILE_TEXTS = (
    '<img src="x" onerror="document.documentElement.dataset.hacked=1">',
    "</script><script>document.documentElement.dataset.hacked=1</script>",
    "<!--<script>\u2028 \\boxed{<b>1</b>}",
)


def write_synthetic_run(
    path: Path,
    *,
    seed: int = 1,
    num_steps: int = 60,
    group_size: int = 8,
    prompts: int = 8,
    hostile: bool = False,
    alarm: bool = False,
    evaluated: bool = True,
    kl: bool = False,
    name: str = "quickstart",
) -> Path:
    """Three equal stages of 96, 192 and 288 tokens; `hostile` plants markup in the first step."""
    rng = np.random.default_rng(seed)
    directory = RunDirectory(path)
    directory.write_recipe(_recipe(name, seed, num_steps))
    directory.write_run_info(_run_info())
    per_stage = num_steps // len(BUDGETS)
    _log_evaluation(directory, 0, "96", 0.22, rng)
    for step in range(1, num_steps + 1):
        stage = min((step - 1) // per_stage, 2)
        skill = _skill(step / num_steps, stage)
        groups = _sample(rng, step, stage, skill, prompts, group_size, hostile=hostile and step == 1)
        directory.write_rollouts(step, str(BUDGETS[stage]), groups, lambda ids: "".join(map(chr, ids)))
        directory.log_step(step, _step_metrics(rng, groups, step / num_steps, stage, kl=kl))
        if step % per_stage == 0 or step == num_steps:
            _log_evaluation(directory, step, str(BUDGETS[stage]), skill, rng)
        if step % per_stage == 0 and stage < 2 and step < num_steps:
            figures = {"steps_in_stage": float(per_stage), "truncated_frac": 0.065, "reward_slope": 0.00021}
            reason = "truncated share rose from 4.2% to 6.5% while the reward was flat (+0.00021 per step)"
            directory.log_event(step, "stage_change", reason, figures)
        if alarm and step == num_steps // 2:
            directory.log_event(step, "alarm", "mismatch: trainer and sampler differ by 0.214 nats per token", {})
    if evaluated:
        _write_evaluations(path, rng)
    return path


def _skill(progress: float, stage: int) -> float:
    return 0.22 + 0.36 * (1 - math.exp(-4 * progress)) + 0.045 * stage


def _sample(
    rng: np.random.Generator,
    step: int,
    stage: int,
    skill: float,
    prompts: int,
    group_size: int,
    *,
    hostile: bool,
) -> list[ScoredGroup]:
    groups = []
    for number in range(prompts):
        difficulty = 2 + (step * prompts + number) % 8
        state, text = _problem(rng, difficulty)
        problem = Problem(f"p-{step:03d}-{number:02d}", text, (f"{state:02d}",), "synthetic", float(difficulty))
        chance = min(0.97, max(0.02, skill + 0.08 * (5 - difficulty)))
        samples = [_completion(rng, text, state, difficulty, stage, chance) for _ in range(group_size)]
        if hostile:
            samples[: len(HOSTILE_TEXTS)] = [
                (t, len(t), Verdict(Outcome.WRONG, 0.0, "<b>1</b>", "answer differs")) for t in HOSTILE_TEXTS
            ]
        rollouts = tuple(
            _rollout(problem, index, length, BUDGETS[stage], step) for index, (_, length, _) in enumerate(samples)
        )
        texts, verdicts = tuple(s[0] for s in samples), tuple(s[2] for s in samples)
        groups.append(ScoredGroup(Group(problem, rollouts), texts, verdicts))
    return groups


def _rollout(problem: Problem, index: int, length: int, budget: int, step: int) -> Rollout:
    """A token of the prompt is a character."""
    finish = FinishReason.LENGTH if length >= budget else FinishReason.STOP
    ids, prompt = np.zeros(length, np.int32), np.array([ord(c) for c in problem.prompt], np.int32)
    return Rollout(problem.id, index, prompt, ids, np.zeros(length, np.float32), finish, step - 1)


def _problem(rng: np.random.Generator, operations: int) -> tuple[int, str]:
    state = int(rng.integers(10, 100))
    parts = [str(state)]
    for label in "abcdefghij"[:operations]:
        number = int(rng.integers(10, 100))
        state = (state + number) % 100
        parts.append(f"{label}+{number}")
    return state, " ".join(parts)


def _completion(
    rng: np.random.Generator, text: str, answer: int, difficulty: int, stage: int, chance: float
) -> tuple[str, int, Verdict]:
    right = rng.random() < chance
    length = round(float(rng.gamma(8.0, (8.0 + 3.2 * difficulty) / 8 * (1 if right else 3.2 - 2 * chance)))) + 12
    words = "".join(f"{part[0]}{part[1:]}={int(rng.integers(100)):02d};" for part in text.split()[1:])
    if length >= BUDGETS[stage]:
        return (
            f"{words}Wait {words}Hmm {words}"[:-7],
            BUDGETS[stage],
            Verdict(Outcome.TRUNCATED, 0.0, None, "cut"),
        )
    boxed = answer if right else (answer + int(rng.integers(1, 20))) % 100
    if not right and rng.random() < 0.1:
        return (
            f"{words}</think>so it is {boxed}",
            length,
            Verdict(Outcome.NO_ANSWER, 0.0, None, "no \\boxed{}"),
        )
    verdict = Verdict(Outcome.CORRECT, 1.0, str(boxed)) if right else Verdict(Outcome.WRONG, 0.0, str(boxed), "differs")
    return f"{words}</think>\\boxed{{{boxed:02d}}}", length, verdict


def _step_metrics(
    rng: np.random.Generator, groups: list[ScoredGroup], progress: float, stage: int, *, kl: bool
) -> dict[str, Any]:
    metrics: dict[str, Any] = {
        "stage": str(BUDGETS[stage]),
        "max_completion_tokens": BUDGETS[stage],
        **rollout_metrics(groups),
        "entropy_mean": 0.18 + 0.25 * math.exp(-3 * progress) + float(rng.normal(0, 0.01)),
        "grad_norm": float(rng.gamma(12, 0.04)),
        "clip_frac": float(rng.gamma(3, 0.0006)),
        "mismatch_mean": float(rng.gamma(20, 1.2e-7)),
        "mismatch_max": float(rng.gamma(6, 5e-6)),
        "learning_rate": 5e-4,
        "skipped_updates": 0,
        "num_trained_tokens": 1.3 * sum(r.num_tokens for g in groups for r in g.group.rollouts),
        "sample_s": 0.9 + 0.5 * stage + float(rng.normal(0, 0.05)),
        "grade_s": 0.05,
        "update_s": 1.1 + 0.3 * stage + float(rng.normal(0, 0.05)),
        "publish_s": 0.004,
    }
    if kl:
        metrics["kl_mean"] = 0.02 * progress + abs(float(rng.normal(0, 0.001)))
    metrics["step_s"] = metrics["sample_s"] + metrics["update_s"] + 0.09
    return metrics


def _log_evaluation(directory: RunDirectory, step: int, stage: str, skill: float, rng: np.random.Generator) -> None:
    sets = {name: _interval(skill + 0.1 - 0.07 * i, 0.06) for i, name in enumerate(SETS)}
    line = {**_interval(skill + float(rng.normal(0, 0.01)), 0.03), "stage": stage, "sets": sets}
    directory.log_evaluation(
        step, {**line, "num_problems": 160, "num_samples": 4, "truncated_frac": 0.05, "length_mean": 88.0}
    )


def _interval(mean: float, half: float) -> dict[str, float]:
    mean = min(max(mean, 0.0), 1.0)
    return {"pass@1": mean, "low": max(0.0, mean - half), "high": min(1.0, mean + half)}


def _write_evaluations(path: Path, rng: np.random.Generator) -> None:
    means = {"base": 0.236, "trained": 0.612}
    sides: dict[str, dict[str, Any]] = {}
    for side, mean in means.items():
        benchmarks = {
            name: {
                **_interval(mean + 0.18 - 0.09 * i + float(rng.normal(0, 0.02)), 0.065),
                "se_problems": 0.033,
                "se_resampling": 0.008,
                "num_problems": 100,
                "num_samples": 16,
                "truncated_frac": 0.21 if side == "base" else 0.01,
                "no_answer_frac": 0.01,
                "length_mean": 120.0,
            }
            for i, name in enumerate(SETS)
        }
        settings = {
            "num_samples": 16,
            "temperature": 1.0,
            "top_p": 1.0,
            "top_k": 0,
            "max_completion_tokens": 288,
        }
        sides[side] = {"benchmarks": benchmarks, "average": _interval(mean, 0.028), "settings": settings}
        _write_json(path / "evaluations" / side / "results.json", sides[side])
    differences = {
        name: {
            "mean": after - before,
            "low": after - before - 0.07,
            "high": after - before + 0.07,
            "p_value": 1e-4,
        }
        for name, before, after in (
            (n, sides["base"]["benchmarks"][n]["pass@1"], sides["trained"]["benchmarks"][n]["pass@1"]) for n in SETS
        )
    }
    total = {"mean": 0.376, "low": 0.341, "high": 0.411, "p_value": 2e-9}
    _write_json(path / "evaluations" / "comparison.json", {"sets": differences, "total": total})


def _write_json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def _recipe(name: str, seed: int, num_steps: int) -> dict[str, Any]:
    return {
        "name": name,
        "description": "A small model learns multi-step arithmetic, 96 -> 192 -> 288 tokens",
        "seed": seed,
        "preset": "justrl",
        "num_steps": num_steps,
        "rollout": {"prompts_per_step": 8, "group_size": 8, "temperature": 1.0},
        "stages": [{"name": str(b), "max_completion_tokens": b, "steps": num_steps // 3} for b in BUDGETS],
        "algorithm": {"loss": "clipped_surrogate", "clip_low": 0.2, "clip_high": 0.28},
        "optimizer": {"learning_rate": 5e-4},
    }


def _run_info() -> dict[str, Any]:
    return {
        "started": 1_760_000_000.0,
        "model": "runs/bases/1f0c9a7b",
        "recipe_digest": "8a61c2d0f35b",
        "python": "3.11.9",
        "versions": {"deepscaler": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "numpy": "2.3.1"},
        "hardware": {"cpu": "A processor with two cores", "cores": 2, "memory_gib": 23.5},
        "git_commit": "6c2f8ee0aa11bb22cc33dd44ee55ff6677889900",
    }
