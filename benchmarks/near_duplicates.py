"""MinHash candidates at 40K problems: datasketch beside `data/prepare/shingles.py`. CPU time, memory, pairs.

    python benchmarks/near_duplicates.py --train DIR [--rows N] [--out FILE]     (needs: pip install datasketch)

Both get the same tokens, signatures of the same length and bands of three; each runs in a process of
its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from data_prepare import noisy_rows, peak_mib

from deepscaler.data.prepare.normalize import NormalizedTexts, Vocabulary
from deepscaler.data.prepare.shingles import BANDS, ROWS, candidate_pairs, overlap, signatures, word_shingles

LIMIT_S = 1800
CLOSE = 0.5  # Jaccard similarity from which a pair should be found


def ours(normalized: NormalizedTexts) -> set[tuple[int, int]]:
    import numpy as np

    shingles = word_shingles(normalized)
    signature = signatures(shingles, BANDS * ROWS, seed=1)
    return set(map(tuple, candidate_pairs(signature, np.zeros(len(shingles), np.uint64), floor=0.0).tolist()))


def datasketch_pairs(normalized: NormalizedTexts) -> set[tuple[int, int]]:
    from datasketch import MinHash, MinHashLSH  # pyright: ignore[reportMissingImports]

    shingles = word_shingles(normalized)
    index = MinHashLSH(num_perm=BANDS * ROWS, params=(BANDS, ROWS))
    pairs = set()
    for row in range(len(shingles)):
        sketch = MinHash(num_perm=BANDS * ROWS, seed=1)
        sketch.update_batch([value.tobytes() for value in shingles.of(row)])
        pairs.update((other, row) for other in index.query(sketch))
        index.insert(row, sketch)
    return pairs


WAYS = {"numpy": ours, "datasketch": datasketch_pairs}


def measure(way: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """CPU seconds from tokens to pairs, peak resident MiB, pairs, and pairs of similarity CLOSE or more."""
    normalized = NormalizedTexts([row["problem"] for row in rows], Vocabulary())
    shingles = word_shingles(normalized)
    before = peak_mib()
    started = time.process_time()
    pairs = WAYS[way](normalized)
    cpu_s = time.process_time() - started
    peak = peak_mib()
    close = sum(overlap(shingles.of(i), shingles.of(j))[0] >= CLOSE for i, j in pairs)
    return {
        "way": way,
        "rows": len(rows),
        "cpu_s": round(cpu_s, 1),
        "peak_mib": peak,
        "tokens_mib": before,
        "pairs": len(pairs),
        "close": close,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/near_duplicates.json"))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        files = sorted(options.train.glob("*.json"))
        rows = [row for file in files for row in json.loads(file.read_text()) if row["answer"]]
        print(json.dumps(measure(options.way, noisy_rows(rows, options.rows, seed=options.rows))))
        return
    results = []
    for way in WAYS:
        command = [sys.executable, __file__, *sys.argv[1:], "--way", way]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=LIMIT_S)
        results.append(json.loads(done.stdout))
        print(json.dumps(results[-1]), flush=True)
    options.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
