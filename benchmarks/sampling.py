"""Sampling side by side: this engine, transformers' `generate`, its continuous batching; one core, float32.

    python benchmarks/sampling.py [--cases tiny tiny-skewed small small-skewed] [--rounds 2] [--json FILE] [--write]

Every contender gets the same random weights, prompts and lengths, in turn in every round; the clock is the CPU time of
the process. Lengths are forced the same way for all: nobody stops by itself, each completion ends at its own limit.
That is the per-request limit of this engine and of continuous batching, and for `generate`, which has none, a logits
processor that allows the end token at that place and nowhere else. Prompts come in groups of 8.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_sizes import build
from numpy.typing import NDArray
from peers import continuous_batching_config
from records import machine, middle, with_range, write_table
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from deepscaler import cpu
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.modeling.attention import NAME
from deepscaler.types import Request, SamplingParams

GROUP = 8
PROMPT_TOKENS = 32


@dataclass(frozen=True)
class Case:
    """What to sample: `lengths` holds the number of tokens of each completion."""

    size: str
    lengths: NDArray[np.int64]
    generate_batch: int  # `generate` is called on this many at a time


def skewed(count: int, cap: int = 512) -> NDArray[np.int64]:
    """Lognormal with median 64, so wide that 3% reach the cap."""
    sigma = np.log(cap / 64) / 1.8808  # the 97% quantile of the normal distribution
    drawn = np.random.default_rng(7).lognormal(np.log(64), sigma, count)
    return np.clip(np.round(drawn), 1, cap).astype(np.int64)


CASES: dict[str, Case] = {
    "tiny": Case("tiny", np.full(64, 128), 64),
    "tiny-skewed": Case("tiny", skewed(512), 512),
    "small": Case("small", np.full(32, 256), 32),
    "small-skewed": Case("small", skewed(512), 512),
}


def prompts(case: Case) -> list[NDArray[np.int32]]:
    """One for each group of 8 completions."""
    rng, vocabulary = np.random.default_rng(3), 1000
    return [rng.integers(2, vocabulary, PROMPT_TOKENS).astype(np.int32) for _ in range(len(case.lengths) // GROUP)]


class LengthsGiven(TorchEngine):
    """The engine, with a length for each completion."""

    lengths: NDArray[np.int64]

    def _params_of(self, request: Request, sample_index: int, params: SamplingParams) -> SamplingParams:
        return replace(params, max_completion_tokens=int(self.lengths[int(request.problem_id) * GROUP + sample_index]))


def run_ours(case: Case) -> Callable[[], int]:
    engine = LengthsGiven(build(case.size, NAME), stop_ids=frozenset(), max_active=512)
    engine.lengths = case.lengths
    requests = [Request(str(i), prompt, GROUP) for i, prompt in enumerate(prompts(case))]
    params = SamplingParams(max_completion_tokens=int(case.lengths.max()))
    return lambda: sum(r.num_tokens for r in engine.generate(requests, params))


class EndsAt(LogitsProcessor):
    """The end token (id 1) where a completion has its length, and nowhere else."""

    def __init__(self, lengths: torch.Tensor, prompt_tokens: int) -> None:
        self._last, self._prompt_tokens = lengths - 1, prompt_tokens

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        ends = self._last <= input_ids.shape[1] - self._prompt_tokens
        scores[:, 1] = torch.where(ends, 1e4, -torch.inf)
        return scores


def run_generate(case: Case) -> Callable[[], int]:
    model = build(case.size, "sdpa")
    ids = torch.from_numpy(np.repeat(np.stack(prompts(case)), GROUP, axis=0)).long()
    lengths = torch.from_numpy(case.lengths)
    equal = bool((lengths == lengths[0]).all())
    config = GenerationConfig(do_sample=True, top_k=0, top_p=1.0, pad_token_id=0, eos_token_id=None if equal else 1)

    def batch(start: int) -> None:
        part = slice(start, start + case.generate_batch)
        processors = LogitsProcessorList([] if equal else [EndsAt(lengths[part], PROMPT_TOKENS)])
        config.max_new_tokens = longest = int(lengths[part].max())
        out = model.generate(
            ids[part],
            attention_mask=torch.ones_like(ids[part]),
            generation_config=config,
            logits_processor=processors,
        )
        assert out.shape[1] == PROMPT_TOKENS + longest

    def run() -> int:
        for start in range(0, len(ids), case.generate_batch):
            batch(start)
        return int(lengths.sum())

    return run


def run_continuous(case: Case) -> Callable[[], int]:
    """transformers' continuous batching, with memory for everything and the forward pass of this machine's choice."""
    model = build(case.size, "sdpa")
    tokens = [p.tolist() for p in prompts(case) for _ in range(GROUP)]
    config = GenerationConfig(do_sample=True, top_k=0, top_p=1.0, pad_token_id=0, eos_token_id=-1)
    config.max_new_tokens = int(case.lengths.max())
    pages = sum(-(-(PROMPT_TOKENS + int(n)) // 32) for n in case.lengths)
    batching = continuous_batching_config(
        32, num_blocks=pages + 64, max_batch_tokens=max(2048, len(tokens)), use_cuda_graph=False
    )

    def run() -> int:
        with model.continuous_batching_context_manager(
            generation_config=config, continuous_batching_config=batching
        ) as manager:
            for ids, length in zip(tokens, case.lengths, strict=True):
                manager.add_request(ids, max_new_tokens=int(length))
            done = produced = 0
            while done < len(tokens):
                result = manager.get_result(timeout=60)
                assert result is not None and result.error is None, "continuous batching gave up"
                if result.is_finished():
                    done, produced = done + 1, produced + len(result.generated_tokens)
        assert produced == int(case.lengths.sum())
        return produced

    return run


CONTENDERS: dict[str, Callable[[Case], Callable[[], int]]] = {
    "deepscaler": run_ours,
    "generate": run_generate,
    "continuous batching": run_continuous,
}


def measure(case: Case, contenders: list[str], rounds: int) -> dict[str, list[float]]:
    """Useful tokens per CPU second of each contender in every round."""
    runs = {name: CONTENDERS[name](case) for name in contenders}
    rates: dict[str, list[float]] = {name: [] for name in runs}
    runs["deepscaler"]()  # the first call compiles kernels for new shapes; the others have no such cost
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            produced = run()
            rates[name].append(produced / (time.process_time() - start))
    return rates


def summary(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Rates and, for every peer, the ratio of paired rounds."""
    ours = rates["deepscaler"]
    ratios = {
        peer: middle([a / b for a, b in zip(ours, theirs, strict=True)])
        for peer, theirs in rates.items()
        if peer != "deepscaler"
    }
    return {"tokens_per_cpu_s": {name: middle(values) for name, values in rates.items()}, "ratios": ratios}


def table_row(name: str, result: dict[str, Any]) -> list[str]:
    case, rates, ratios = CASES[name], result["tokens_per_cpu_s"], result["ratios"]
    longest = f"{int(case.lengths.max())} tokens" if case.lengths.min() == case.lengths.max() else "skewed"
    cells = [f"{case.size}, {len(case.lengths)} × {longest}", with_range(rates["deepscaler"], 0)]
    for peer in ("generate", "continuous batching"):
        cells += [with_range(rates[peer], 0), f"**{with_range(ratios[peer], 1)}**"] if peer in rates else ["–", "–"]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=["tiny", "tiny-skewed", "small"])
    parser.add_argument("--contenders", nargs="+", choices=list(CONTENDERS), default=list(CONTENDERS))
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the record there as well")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    cpu.prepare(threads=1)
    info, results = machine(), {}
    for name in arguments.cases:
        results[name] = summary(measure(CASES[name], arguments.contenders, arguments.rounds))
        print(name, json.dumps(results[name]), file=sys.stderr, flush=True)
    record = json.dumps({"machine": info, "rounds": arguments.rounds, "cases": results}, indent=1)
    print(record)
    if arguments.json:
        arguments.json.write_text(record)
    if arguments.write:
        columns = ["completions", "deepscaler", "generate", "ratio", "continuous batching", "ratio"]
        note = f"Useful tokens per CPU second, median (range) of {arguments.rounds} rounds; prompts of {PROMPT_TOKENS}."
        write_table("sampling.py", columns, [table_row(n, r) for n, r in results.items()], note, info)


if __name__ == "__main__":
    main()
