"""Decoding at a context of 8K tokens against the rate at which this core moves memory; float32.

    python benchmarks/long_context.py [--rounds 5] [--json FILE] [--write]

A step must read every cached key and value once; the bound is those bytes at the rate of a large copy (bytes read and
written per CPU second), measured in the same rounds, beside the rate at which a sum reads. The cache is filled with
random numbers instead of minutes of decoding: what a step reads does not depend on them.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from model_sizes import build
from records import machine, middle, with_range, write_table

from deepscaler import cpu
from deepscaler.cpu.decode_attention import DecodeAttention, FusedDecodeAttention
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.kv_cache import KVCache
from deepscaler.modeling.attention import NAME

CONTEXT = 8192
SEQUENCES = 16


def seconds(function: Callable[[], object], repeats: int) -> float:
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


def decoding_step(size: str, kind: type[DecodeAttention] = FusedDecodeAttention) -> tuple[Callable[[], object], int]:
    """A step of 16 sequences, by the attention kernel or by its torch reference, and the bytes of cache it reads."""
    model = build(size, NAME)
    size_of_block = KVCache.choose_block_tokens(2 * CONTEXT)
    cache = KVCache(model.config, torch.float32, torch.device("cpu"), 2**33, size_of_block)
    decoder = Decoder(model)
    decoder.refresh(CONTEXT + 1)
    counts = np.full(SEQUENCES, CONTEXT // cache.block_tokens)
    table = np.array([cache.allocate(n) for n in counts])
    for tensor in (*cache.keys, *cache.values):
        tensor.normal_()
    lengths = np.full(SEQUENCES, CONTEXT - 1)
    attention = kind(table, counts, cache.keys, cache.values, padding=0)
    tokens, positions = torch.arange(2, 2 + SEQUENCES), torch.from_numpy(lengths)
    return lambda: decoder.logits(tokens, positions, attention.step(positions)), (int(counts.sum()) * cache.block_bytes)


def measure(size: str, rounds: int) -> dict[str, Any]:
    """A step against its bounds: bytes of cache at the rate of a copy, without and with the products at their rate."""
    source, square = torch.rand(2**26), torch.rand(2048, 2048)
    target = torch.empty_like(source)
    step, cache_bytes = decoding_step(size)
    plain_step, _ = decoding_step(size, DecodeAttention)
    flops = 2 * SEQUENCES * sum(p.numel() for p in build(size, NAME).parameters())
    rows = []
    target.copy_(source)
    step()
    plain_step()
    for _ in range(rounds):
        copied = 2 * source.nbytes / seconds(lambda: target.copy_(source), 3)
        multiplied = 2 * 2048**3 / seconds(lambda: square @ square, 2)
        summed = source.nbytes / seconds(source.sum, 3)
        taken = seconds(step, 3)
        bound = cache_bytes / copied
        plain = seconds(plain_step, 2)
        shares = (bound / taken, (bound + flops / multiplied) / taken, cache_bytes / summed / taken, bound / plain)
        rows.append((copied, taken, *shares, summed))
    columns = [middle(column) for column in zip(*rows, strict=True)]
    return {
        "cache_bytes": cache_bytes,
        "copy_bytes_per_s": columns[0],
        "s_per_step": columns[1],
        "tokens_per_s": SEQUENCES / columns[1]["median"],
        "share_of_bound": columns[2],
        "share_of_bound_with_products": columns[3],
        "share_of_reading": columns[4],
        "share_of_bound_by_torch_operators": columns[5],
        "read_bytes_per_s": columns[6],
    }


def table_row(size: str, result: dict[str, Any]) -> list[str]:
    return [
        f"{size}, {SEQUENCES} × {CONTEXT}",
        f"{result['cache_bytes'] / 1e6:.0f}",
        f"{result['copy_bytes_per_s']['median'] / 1e9:.1f}",
        f"{result['read_bytes_per_s']['median'] / 1e9:.1f}",
        f"{1e3 * result['s_per_step']['median']:.1f}",
        f"{result['tokens_per_s']:.0f}",
        f"**{with_range(result['share_of_bound'])}**",
        with_range(result["share_of_bound_with_products"]),
        with_range(result["share_of_reading"]),
        with_range(result["share_of_bound_by_torch_operators"]),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the record there as well")
    parser.add_argument("--write", action="store_true", help="write the table into docs/benchmarks.md")
    arguments = parser.parse_args()
    cpu.prepare(threads=1)
    info = machine()
    with torch.inference_mode():
        results = {size: measure(size, arguments.rounds) for size in ("tiny", "small")}
    record = json.dumps({"machine": info, "cases": results}, indent=1)
    print(record)
    if arguments.json:
        arguments.json.write_text(record)
    if arguments.write:
        columns = ["sequences × context", "cache, MB", "copy, GB/s", "read, GB/s", "ms a step", "tokens/s"]
        columns += ["share of bound", "with products", "share of reading", "by torch's operators"]
        note = (
            "With products: the bound adds them at the rate of a 2048 × 2048 × 2048 product of torch. Share of "
            "reading: the bound is the cache at the rate at which a sum reads. By torch's operators: without the "
            "compiled attention."
        )
        rows = [table_row(size, result) for size, result in results.items()]
        write_table("long_context.py", columns, rows, note, info)


if __name__ == "__main__":
    main()
