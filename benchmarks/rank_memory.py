"""Peak memory of a learner rank that starts: the whole model read on every rank, and only this rank's part of it.

A Qwen2 of 126 M parameters with random float32 weights and a reference (KL term); no step is made. VmHWM of every rank
above that of a process that only imported the same modules. Writes the table of docs/scaling.md to standard output.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
from pathlib import Path
from typing import Any

RANKS = (1, 2, 4)
LIMIT_S = 300.0
SIZE = {
    "vocab_size": 32_768,
    "hidden_size": 768,
    "intermediate_size": 2304,
    "num_hidden_layers": 11,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
}


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        model = Path(directory) / "model"
        parameters = _in_child(_make, model)
        print(f"{parameters / 1e6:.0f} M parameters, MiB for weights and reference: {2 * 4 * parameters / 2**20:.0f}\n")
        print("| ranks | every rank reads the model | every rank reads its part |\n|---:|---:|---:|")
        for count in RANKS:
            peaks = [max(_peaks(model, count, on_meta, Path(directory))) for on_meta in (False, True)]
            print(f"| {count} | {peaks[0]:,.0f} MiB | {peaks[1]:,.0f} MiB |", flush=True)


def _make(model: Path, queue: Any) -> None:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    made = Qwen2ForCausalLM(Qwen2Config(**SIZE, tie_word_embeddings=False, use_sliding_window=False))  # type: ignore[arg-type]
    made.save_pretrained(model)
    queue.put(sum(p.numel() for p in made.parameters()))


def _peaks(model: Path, count: int, on_meta: bool, directory: Path) -> list[float]:
    """MiB of every rank."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    meeting = directory / f"meeting-{count}-{on_meta}"
    ranks = [
        context.Process(target=_rank, args=(model, rank, count, on_meta, meeting, queue), daemon=True)
        for rank in range(count)
    ]
    for rank in ranks:
        rank.start()
    peaks = [queue.get(timeout=LIMIT_S) for _ in ranks]
    for rank in ranks:
        rank.join(LIMIT_S)
    return peaks


def _in_child(function: Any, model: Path) -> int:
    """In a process of its own: what a child inherits of memory would count as its peak."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=function, args=(model, queue), daemon=True)
    process.start()
    result: int = queue.get(timeout=LIMIT_S)
    process.join(LIMIT_S)
    return result


def _rank(model: Path, rank: int, count: int, on_meta: bool, meeting: Path, queue: Any) -> None:
    import torch
    import torch.distributed as dist

    from deepscaler.config.models import Recipe
    from deepscaler.modeling.load import load_model
    from deepscaler.training.sharded_replica import sharded_replica

    torch.set_num_threads(1)
    recipe = Recipe.model_validate(
        {
            "name": "memory",
            "num_steps": 1,
            "model": {"path": str(model)},
            "data": {"source": "unused.json"},
            "rollout": {"prompts_per_step": 2, "group_size": 2},
            "stages": [{"name": "s", "max_completion_tokens": 8}],
            "algorithm": {"kl": {"coefficient": 0.1}},
        }
    )
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    before = _peak_mib()
    replica = sharded_replica(recipe, load_model(model, on_meta=on_meta), meeting.parent, model)
    queue.put(_peak_mib() - before)
    del replica
    dist.barrier()
    dist.destroy_process_group()


def _peak_mib() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"
    main()
