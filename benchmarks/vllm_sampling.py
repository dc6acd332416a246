"""vLLM's CPU build on the cases of benchmarks/sampling.py; one core, float32. `make bench-vllm`.

    python benchmarks/vllm_sampling.py [--cases tiny tiny-skewed] [--rounds 3]

Runs in an environment of its own, with vLLM and transformers but without this program's newer ones; says so and ends
well where vLLM is not installed. Compare its tokens per CPU second with those of benchmarks/sampling.py from the same
machine and hour. Lengths are forced by `max_tokens` per request and `ignore_eos`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import sys
import tempfile
import time
from typing import Any

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "0",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # in this process, whose CPU time is measured
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def measure(name: str, rounds: int) -> list[float]:
    """Useful tokens per CPU second, by round; the first, not counted, warms up."""
    from model_sizes import build
    from sampling import CASES, GROUP, prompts
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    case = CASES[name]
    with tempfile.TemporaryDirectory() as directory:
        build(case.size, "sdpa").save_pretrained(directory)
        options: dict[str, Any] = {"dtype": "float32", "skip_tokenizer_init": True, "max_model_len": 1024}
        engine = LLM(model=directory, max_num_seqs=512, enable_prefix_caching=True, **options)
        inputs = [{"prompt_token_ids": p.tolist()} for p in prompts(case) for _ in range(GROUP)]
        params = [
            SamplingParams(temperature=1.0, max_tokens=int(n), ignore_eos=True, logprobs=0, detokenize=False)
            for n in case.lengths
        ]
        rates = []
        for _ in range(rounds + 1):
            start = time.process_time()
            outputs = engine.generate(inputs, params, use_tqdm=False)
            taken = time.process_time() - start
            produced = sum(len(o.outputs[0].token_ids) for o in outputs)
            assert produced == int(case.lengths.sum())
            rates.append(produced / taken)
    return rates[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", default=["tiny", "tiny-skewed"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if importlib.util.find_spec("vllm") is None:
        print("vLLM is not installed here: nothing measured. docs/benchmarks.md says how to install its CPU build")
        return
    if any(os.environ.get(key) != value for key, value in SETTINGS.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **SETTINGS})
    rates = {name: measure(name, arguments.rounds) for name in arguments.cases}
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(json.dumps({"tokens_per_cpu_s": rates, "median": medians}, indent=1))


if __name__ == "__main__":
    main()
