"""Everything that is measured on a GPU, in under 8 minutes, into one JSON file.

    python benchmarks/gpu.py [--json gpu.json] [--size 1.5b] [--device cuda] [--parts learning decoding ...]

Each part is a process of its own with a time limit. One that fails or is cut off is recorded with its error and with
what it had measured until then, and the rest goes on; the file is written again after every part. All parts together
keep to the budget: what one leaves of its time, the later ones have. `--size tiny --device cpu` tries everything out
in seconds. Ends with status 1 when a part did not finish.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deepscaler.observability.files import write_atomically

HERE = Path(__file__).parent
BUDGET_S = 470.0
# Script and most seconds of each part, in order; the last one may use what is left.
PARTS: dict[str, tuple[str, float]] = {
    "learning": ("gpu_learning.py", 100.0),
    "decoding": ("gpu_sampling.py", 100.0),
    "mismatch": ("gpu_sampling.py", 45.0),
    "profile": ("gpu_profile.py", 60.0),
    "step": ("gpu_step.py", 220.0),
    "generation": ("gpu_sampling.py", BUDGET_S),
}
ERROR_CHARACTERS = 2000


def run_part(name: str, size: str, device: str, limit_s: float, folder: Path) -> dict[str, Any]:
    """`status` is done, failed or out of time; `results` whatever it had written."""
    script, most_s = PARTS[name]
    limit_s, found = min(limit_s, most_s), folder / f"{name}.json"
    if limit_s < 1:
        return {"status": "out of time", "error": "the parts before used the whole budget", "seconds": 0.0}
    command = [sys.executable, str(HERE / script), "--part", name, "--size", size, "--device", device]
    start, error = time.monotonic(), None
    try:
        done = subprocess.run([*command, "--json", str(found)], capture_output=True, text=True, timeout=limit_s)
        status = "done" if done.returncode == 0 else "failed"
        error = None if status == "done" else f"exit code {done.returncode}: {done.stderr[-ERROR_CHARACTERS:]}"
    except subprocess.TimeoutExpired:
        status, error = "out of time", f"cut off after {limit_s:.0f} s"
    record: dict[str, Any] = {"status": status, "seconds": round(time.monotonic() - start, 1)}
    if error is not None:
        record["error"] = error
    if found.is_file():
        record["results"] = json.loads(found.read_text())
    return record


def write(path: Path, record: dict[str, Any]) -> None:
    write_atomically(path, lambda part: part.write_text(json.dumps(record, indent=1) + "\n"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, default=Path("gpu.json"))
    parser.add_argument("--size", choices=["1.5b", "small", "tiny"], default="1.5b")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--budget-s", type=float, default=BUDGET_S, help="seconds for all parts together")
    arguments = parser.parse_args()
    end = time.monotonic() + arguments.budget_s
    record: dict[str, Any] = {"size": arguments.size, "parts": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.parts:
            part = run_part(name, arguments.size, arguments.device, end - time.monotonic(), Path(folder))
            for key in ("machine", "workload"):  # the same in all parts
                record.setdefault(key, part.get("results", {}).pop(key, None))
            record["parts"][name] = part
            record["seconds"] = round(arguments.budget_s - (end - time.monotonic()), 1)
            write(arguments.json, record)
            print(f"{name}: {part['status']} in {part['seconds']} s", file=sys.stderr, flush=True)
            if "error" in part:
                print(part["error"], file=sys.stderr, flush=True)
    print(arguments.json.read_text())
    if any(part["status"] != "done" for part in record["parts"].values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
