"""A whole GRPO step against TRL's GRPOTrainer: the same model, prompts, completion lengths, loss and useful tokens.

    python benchmarks/grpo_step.py [--cases tiny tiny-skewed small small-skewed bigvocab] [--rounds 2] [--write]

One core, float32. Every measurement is a process of its own, ours and TRL's in turn; time is CPU seconds of a step
(sampling, advantages, update, publishing; a reward function that costs nothing), memory the process's peak. Lengths
are forced: nobody stops by itself, each completion ends at its own limit. `bigvocab` is `tiny` with a vocabulary of
151,936, and its completions are given instead of sampled. TRL runs with its fastest settings here: no gradient
checkpointing, the largest batch that fits. Prints JSON; --write puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from learning import recipe
from model_sizes import SIZES, build
from policy_learner import make_learner
from records import machine, middle, with_range, write_table
from sampling import EndsAt, LengthsGiven, skewed
from transformers import LogitsProcessorList

from deepscaler import cpu
from deepscaler.algorithms.batch import make_samples
from deepscaler.loop.publishing import load_checked
from deepscaler.modeling.attention import NAME
from deepscaler.types import (
    FinishReason,
    Group,
    Outcome,
    Problem,
    Request,
    Rollout,
    SamplingParams,
    ScoredGroup,
    Verdict,
)

GROUP = 8
PROMPT_TOKENS = 32
Measurement = dict[str, float]


@dataclass(frozen=True)
class Case:
    """`lengths` holds the number of tokens of each completion; a step is repeated `steps` times after `warm_up`."""

    size: str
    lengths: np.ndarray
    warm_up: int = 1
    steps: int = 2
    group: int = GROUP
    sampled: bool = True
    trl_batch: int = 0  # completions per forward of TRL; 0 = all


def spread(count: int) -> np.ndarray:
    """Every fourth of four times as many skewed lengths by size: so few still hold one at the cap."""
    lengths = np.sort(skewed(4 * count))[3::4]
    return np.random.default_rng(6).permutation(lengths)


CASES = {
    "tiny": Case("tiny", np.full(64, 128)),
    "tiny-skewed": Case("tiny", skewed(128), warm_up=0, steps=1, trl_batch=64),
    "small": Case("small", np.full(32, 256), warm_up=0, steps=1),
    "small-skewed": Case("small", spread(32), warm_up=0, steps=1, trl_batch=16),
    "bigvocab": Case("bigvocab", np.full(2, 4096), warm_up=0, steps=1, group=2, sampled=False),
}


def prompts(case: Case) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [rng.integers(2, 1000, PROMPT_TOKENS).astype(np.int32) for _ in range(len(case.lengths) // case.group)]


def rewards(case: Case) -> np.ndarray:
    """Of both signs after the baseline, in every group."""
    return np.random.default_rng(4).random((len(case.lengths) // case.group, case.group)).astype(np.float32)


def given_completions(case: Case) -> np.ndarray:
    return np.random.default_rng(5).integers(2, 1000, (len(case.lengths), int(case.lengths.max())))


def measure_ours(case: Case) -> Measurement:
    model = build(case.size, NAME)
    engine = LengthsGiven(model, stop_ids=frozenset(), max_active=512)
    engine.lengths = case.lengths
    learner = make_learner(model, recipe())
    requests = [Request(str(i), prompt, case.group) for i, prompt in enumerate(prompts(case))]
    step_s, sample_s, stats = [], [], None
    for step in range(case.warm_up + case.steps):
        start = time.process_time()
        params = SamplingParams(max_completion_tokens=int(case.lengths.max()), step=step)
        rollouts = list(engine.generate(requests, params)) if case.sampled else _given(case, requests)
        sample_s.append(time.process_time() - start)
        samples = make_samples(
            _scored(case, rollouts),
            recipe().algorithm,
            max_completion_tokens=params.max_completion_tokens,
            num_updates=1,
        )
        stats = learner.update(samples)
        load_checked(engine, learner.publish())
        step_s.append(time.process_time() - start)
    assert stats is not None
    expected = int(case.lengths.sum()) + PROMPT_TOKENS * len(case.lengths)
    assert stats.metrics["num_trained_tokens"] == expected, "every token of every completion is trained on, none twice"
    return _measurement(case, step_s, sample_s)


def _given(case: Case, requests: list[Request]) -> list[Rollout]:
    ids = given_completions(case).astype(np.int32)
    logprobs = np.full(ids.shape[1], -np.log(SIZES[case.size]["vocab_size"]), np.float32)
    return [
        Rollout(r.problem_id, i, r.prompt_ids, ids[p * case.group + i], logprobs, FinishReason.LENGTH, 0)
        for p, r in enumerate(requests)
        for i in range(case.group)
    ]


def _scored(case: Case, rollouts: list[Rollout]) -> list[ScoredGroup]:
    by_key = {(r.problem_id, r.sample_index): r for r in rollouts}
    groups = []
    for p, row in enumerate(rewards(case)):
        members = tuple(by_key[str(p), i] for i in range(case.group))
        verdicts = tuple(Verdict(Outcome.CORRECT, float(reward)) for reward in row)
        groups.append(ScoredGroup(Group(Problem(str(p), "", ("",)), members), ("",) * case.group, verdicts))
    return groups


def measure_trl(case: Case) -> Measurement:
    import trl
    from datasets import Dataset  # type: ignore[import-untyped]
    from transformers import TrainerCallback

    model = build(case.size, "sdpa")
    step_s: list[float] = []
    sample_s: list[float] = []
    model.generate = functools.partial(_generate, case, model, type(model).generate, sample_s)

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            step_s.append(time.process_time() - self.start)

    count = len(case.lengths)
    batch = case.trl_batch or count
    with tempfile.TemporaryDirectory() as directory:
        arguments = trl.GRPOConfig(  # pyright: ignore[reportPrivateImportUsage]
            output_dir=directory,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            shuffle_dataset=False,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=count // batch,
            num_generations=case.group,
            max_completion_length=int(case.lengths.max()),
            max_steps=case.warm_up + case.steps,
            learning_rate=recipe().optimizer.learning_rate,
            loss_type="dapo",
            beta=0.0,
            temperature=1.0,
        )
        flat = rewards(case).reshape(-1).tolist()
        texts = [" ".join(f"w{t}" for t in prompt) for prompt in prompts(case)]
        trainer = trl.GRPOTrainer(  # pyright: ignore[reportPrivateImportUsage]
            model=model,
            reward_funcs=[lambda completions, **_: flat],
            args=arguments,
            train_dataset=Dataset.from_dict({"prompt": texts * (case.warm_up + case.steps)}),
            processing_class=_tokenizer(SIZES[case.size]["vocab_size"]),
            callbacks=[Clock()],
        )
        trainer.train()
    return _measurement(case, step_s, sample_s)


def _generate(case: Case, model: Any, generate: Any, seconds: list[float], **inputs: Any) -> torch.Tensor:
    """TRL's call of `generate`, with the lengths of the case; at equal ones nothing ends early and nothing is added."""
    start = time.process_time()
    if not case.sampled:
        return torch.cat([inputs["input_ids"], torch.from_numpy(given_completions(case))], dim=1)
    lengths = torch.from_numpy(case.lengths)
    assert inputs["input_ids"].shape == (len(lengths), PROMPT_TOKENS)
    out = generate(model, **inputs, logits_processor=LogitsProcessorList([EndsAt(lengths, PROMPT_TOKENS)]))
    assert out.shape[1] == PROMPT_TOKENS + int(lengths.max())
    seconds.append(time.process_time() - start)
    return out


def _tokenizer(vocabulary: int) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<pad>": 0, "<eos>": 1, **{f"w{i}": i for i in range(2, vocabulary)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>")


def _measurement(case: Case, step_s: list[float], sample_s: list[float]) -> Measurement:
    counted = slice(case.warm_up, None)
    return {
        "step_s": statistics.median(step_s[counted]),
        "sampling_s": statistics.median(sample_s[counted]) if case.sampled else 0.0,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


CONTENDERS = {"deepscaler": measure_ours, "trl": measure_trl}


def compare(name: str, rounds: int) -> dict[str, Any]:
    """Alternating processes; the ratio of each round is TRL's figure over ours."""
    runs: dict[str, list[Measurement]] = {contender: [] for contender in CONTENDERS}
    for _ in range(rounds):
        for contender, results in runs.items():
            command = [sys.executable, __file__, "--measure", name, contender]
            done = subprocess.run(command, capture_output=True, text=True, timeout=1200)
            if done.returncode:
                raise RuntimeError(f"{contender} failed on {name}:\n{done.stderr[-2000:]}")
            results.append(json.loads(done.stdout.splitlines()[-1]))
    pairs = list(zip(runs["trl"], runs["deepscaler"], strict=True))
    ratio = {
        "step": middle([a["step_s"] / b["step_s"] for a, b in pairs]),
        "update": middle([(a["step_s"] - a["sampling_s"]) / (b["step_s"] - b["sampling_s"]) for a, b in pairs]),
        "memory": middle([a["peak_mb"] / b["peak_mb"] for a, b in pairs]),
    }
    return {"useful_tokens": int(CASES[name].lengths.sum()), "runs": runs, "ratio": ratio}


def write(results: dict[str, Any], info: dict[str, Any]) -> None:
    columns = ("case", "TRL, s", "ours, s", "TRL / ours", "update alone", "TRL, MB", "ours, MB")
    rows = []
    for name, r in results.items():
        figures = {
            (who, key): statistics.median(run[key] for run in r["runs"][who])
            for who in CONTENDERS
            for key in ("step_s", "sampling_s", "peak_mb")
        }
        seconds = [
            f"{figures[who, 'step_s']:.2f} ({figures[who, 'sampling_s']:.2f} sampling)" for who in ("trl", "deepscaler")
        ]
        memory = [f"{figures[who, 'peak_mb']:,.0f}" for who in ("trl", "deepscaler")]
        ratios = [with_range(r["ratio"]["step"]), with_range(r["ratio"]["update"])]
        rows.append((name, *seconds, *ratios, *memory))
    note = "CPU seconds of a step, one core; medians of paired rounds, with the range of the ratio."
    write_table("grpo_step.py", columns, rows, note, info)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", nargs=2, help="internal: case and contender")
    arguments = parser.parse_args()
    if arguments.measure:
        warnings.simplefilter("ignore")
        cpu.prepare(threads=1)
        print(json.dumps(CONTENDERS[arguments.measure[1]](CASES[arguments.measure[0]])))
        return
    info, results = machine(), {}
    for name in arguments.cases:
        results[name] = compare(name, arguments.rounds)
        print(name, json.dumps(results[name]["ratio"]), file=sys.stderr, flush=True)
        if arguments.write:
            write(results, info)  # after every case: the last ones take minutes
    print(json.dumps({"machine": info, "results": results}, indent=1))


if __name__ == "__main__":
    main()
