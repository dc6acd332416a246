"""What keeping freed memory (`deepscaler.cpu.keep_freed_memory`) is worth: copies and narrow products of large tensors.

    python benchmarks/allocator.py [--rounds 5] [--write]

Each measurement is a process of its own, with and without in turn; ratios are those of medians. Prints JSON;
--write puts the table into docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from records import machine, write_table

REPEATS = 20


def measure(keep: bool) -> dict[str, float]:
    """Seconds per operation on tensors above glibc's 32 MiB limit."""
    import torch

    from deepscaler import cpu

    if keep:
        cpu.keep_freed_memory()
    torch.set_num_threads(1)
    source, narrow, weight = torch.rand(16384, 1024), torch.rand(32768, 128), torch.rand(128, 384)
    operations = {"copy 64 MiB": source.clone, "product 32768x128x384": lambda: narrow @ weight}
    seconds = {}
    for name, operation in operations.items():
        for _ in range(3):
            operation()
        start = time.perf_counter()
        for _ in range(REPEATS):
            operation()
        seconds[name] = (time.perf_counter() - start) / REPEATS
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--measure", choices=["keep", "return"], help="internal")
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure == "keep")))
        return
    runs: dict[str, list[dict[str, float]]] = {"keep": [], "return": []}
    for _ in range(arguments.rounds):
        for name, values in runs.items():
            command = [sys.executable, __file__, "--measure", name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
            values.append(json.loads(done.stdout))
    ratios = {}
    for operation in runs["keep"][0]:
        kept, returned = (statistics.median(run[operation] for run in runs[name]) for name in ("keep", "return"))
        ratios[operation] = {"ms_kept": 1e3 * kept, "ms_returned": 1e3 * returned, "ratio": returned / kept}
    info = machine()
    print(json.dumps({"ratios": ratios, "machine": info}, indent=1))
    if arguments.write:
        columns = ("operation", "memory kept, ms", "returned, ms", "returned / kept")
        rows = [
            (name, f"{r['ms_kept']:.1f}", f"{r['ms_returned']:.1f}", f"{r['ratio']:.2f}") for name, r in ratios.items()
        ]
        note = "What `deepscaler.cpu.keep_freed_memory` is worth: medians of alternating processes, one thread."
        write_table("allocator.py", columns, rows, note, info)


if __name__ == "__main__":
    main()
