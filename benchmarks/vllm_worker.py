"""One engine of benchmarks/vllm_sampling.py, in the environment of this interpreter: `vllm_worker.py ENGINE CASE`.

Prints "ready" when it has loaded and warmed up; then for every line it is given it samples once and prints tokens and
CPU seconds. Whatever else its libraries print goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable

from model_sizes import build
from sampling import CASES, GROUP, PROMPT_TOKENS, Case, prompts, run_ours

from deepscaler import cpu
from deepscaler.lifetime import die_with_parent

WARM_UP = 2  # rounds; the first compiles


def run_vllm(case: Case, *, eager: bool) -> Callable[[], int]:
    """vLLM's offline engine in this process, with room for everything and no seeds, which would cost it time."""
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as directory:
        build(case.size, "sdpa").save_pretrained(directory)
        engine = LLM(
            model=directory,
            dtype="float32",
            skip_tokenizer_init=True,
            max_model_len=PROMPT_TOKENS + int(case.lengths.max()),
            max_num_seqs=len(case.lengths),
            enable_prefix_caching=True,
            enforce_eager=eager,
        )
    inputs = [{"prompt_token_ids": p.tolist()} for p in prompts(case) for _ in range(GROUP)]
    shared = {"temperature": 1.0, "ignore_eos": True, "logprobs": 0, "flat_logprobs": True, "detokenize": False}
    params = [SamplingParams(max_tokens=int(length), **shared) for length in case.lengths]

    def run() -> int:
        outputs = engine.generate(inputs, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


ENGINES: dict[str, Callable[[Case], Callable[[], int]]] = {
    "deepscaler": run_ours,
    "vllm": lambda case: run_vllm(case, eager=False),
    "vllm-eager": lambda case: run_vllm(case, eager=True),
}


def main() -> None:
    die_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine, case = sys.argv[1], CASES[sys.argv[2]]
    if engine == "deepscaler":
        cpu.prepare(threads=1)
    run = ENGINES[engine](case)
    for _ in range(WARM_UP):
        run()
    print("ready", file=answers, flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        produced = run()
        seconds = time.process_time() - start
        assert produced == int(case.lengths.sum())
        print(json.dumps({"tokens": produced, "cpu_s": seconds}), file=answers, flush=True)


if __name__ == "__main__":
    main()
