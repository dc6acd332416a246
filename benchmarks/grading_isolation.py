"""What 1% of bombs costs a batch of gradings, and whether any other verdict changes. Into docs/grading.md.

    python benchmarks/grading_isolation.py [--cases ../shared/grading/dev.jsonl] [--rounds 5]

The batch is the ordinary labelled cases, graded TIMES over by a new pool each time, so that no cache helps. In turn 1%
of it is replaced by bombs of a kind. Cost is processor seconds of this process, the supervisor and all grading
processes, so a busy machine hardly changes it; kinds alternate in every round and the loss is of the medians. Prints
JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from graders import golds_of
from grading import HOSTILE
from markers import replace_between_markers

from deepscaler.rewards.isolation.pool import GraderPool
from deepscaler.rewards.isolation.process import Limits
from deepscaler.types import GradeItem, Verdict

ROOT = Path(__file__).resolve().parents[1]
LIMITS = Limits(wall_s=10.0, cpu_s=1.0, memory_mib=1024)
TIMES = 5
# Hostile answers for the real grader; `n` makes each another one.
ANSWERS: tuple[Callable[[int], str], ...] = (
    lambda n: f"9^{{9^{9 + n}}}",
    lambda n: f"{99999999 + n}!",
    lambda n: f"{n}" + "7" * 10**6,
    lambda n: "(" * 500 + f"{n}" + ")" * 500,
    lambda n: f"(x+{n})^{{3000}}",
    lambda n: f"\\sqrt{{{n}+" * 200 + "1" + "}" * 200,
    lambda n: f"10^{{-10^{{{n + 10}}}}}",
)
COMMANDS = ("die", "segfault", "hoard", "raise", "spin", "hang")


def ordinary_items(cases: Path) -> list[GradeItem]:
    rows = [json.loads(line) for line in cases.read_text().splitlines()]
    return [GradeItem(row["response"], golds_of(row), False) for row in rows if row["source"] != HOSTILE]


def planted(items: list[GradeItem], kind: str, places: list[int], seed: int) -> list[GradeItem]:
    mixed = list(items)
    for n, place in enumerate(places):
        bomb = f"\\boxed{{{ANSWERS[n % len(ANSWERS)](100 * seed + n)}}}" if kind == "answers" else f"{kind}:{n}"
        mixed[place] = GradeItem(bomb, ["7"] if kind != "answers" or n % 2 else ["x^2+\\pi"], False)
    return mixed


def measure(items: list[GradeItem], times: int = TIMES) -> tuple[list[Verdict], float, float]:
    """(verdicts, processor seconds, wall seconds) of a batch, the mean of `times` pools that stood ready."""
    verdicts: list[Verdict] = []
    cpu_s = wall_s = 0.0
    for _ in range(times):
        with GraderPool(num_workers=1, limits=LIMITS, grader="faulty_graders:grade_or_misbehave") as pool:
            pool.grade([GradeItem("\\boxed{\\sin 1}", ["\\cos 2"], thinking_prefilled=False)])
            before, start = _cpu_s(pool), time.perf_counter()
            verdicts = pool.grade(items)
            cpu_s += (_cpu_s(pool) - before) / times
            wall_s += (time.perf_counter() - start) / times
    return verdicts, cpu_s, wall_s


def _cpu_s(pool: GraderPool) -> float:
    """Of this process, the supervisor, the grading processes that ended and the one at work."""
    supervisor = pool._processes[0]._supervisor
    assert supervisor is not None
    path = Path(f"/proc/{supervisor.pid}/task/{supervisor.pid}/children")
    ticks = sum(_ticks(supervisor.pid, 4)) + sum(sum(_ticks(int(child), 2)) for child in path.read_text().split())
    return time.process_time() + ticks / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int, count: int) -> list[int]:
    """user, system, and of ended children user, system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return [int(field) for field in fields[11 : 11 + count]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=Path, default=ROOT / ".." / "shared" / "grading" / "dev.jsonl")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests" / "support"), os.environ.get("PYTHONPATH", "")])
    items = ordinary_items(arguments.cases)
    kinds = ("none", "answers", *COMMANDS)
    cpu: dict[str, list[float]] = {kind: [] for kind in kinds}
    wall: dict[str, list[float]] = {kind: [] for kind in kinds}
    facts: dict[str, dict[str, Any]] = {kind: {"changed": 0, "outcomes": {}} for kind in kinds}
    expected, _, _ = measure(items)
    for seed in range(arguments.rounds):
        for kind in kinds:
            if kind in ("spin", "hang") and seed:  # their cost is the limit, once tells
                continue
            places = sorted(random.Random(seed).sample(range(len(items)), 0 if kind == "none" else len(items) // 100))
            slow = kind in ("spin", "hang")
            few = places[:2] if slow else places
            verdicts, cpu_s, wall_s = measure(planted(items, kind, few, seed), 1 if slow else TIMES)
            cpu[kind].append(cpu_s)
            wall[kind].append(wall_s)
            others = [i for i in range(len(items)) if i not in set(few)]
            facts[kind]["changed"] += sum(verdicts[i] != expected[i] for i in others)
            facts[kind]["bombs"] = len(few)
            for place in few:
                outcome = verdicts[place].outcome.value
                facts[kind]["outcomes"][outcome] = facts[kind]["outcomes"].get(outcome, 0) + 1
    clean = statistics.median(cpu["none"])
    for kind, fact in facts.items():
        cost = statistics.median(cpu[kind])
        fact |= {"cpu_s": [round(v, 3) for v in cpu[kind]], "wall_s": [round(v, 2) for v in wall[kind]]}
        fact["throughput_lost"] = 1 - clean / cost
        fact["ms_per_bomb"] = 1000 * (cost - clean) / fact["bombs"] if fact["bombs"] else 0.0
    rows = [_row(kind, fact) for kind, fact in facts.items() if kind != "none"]
    head = [
        "| 1% of the batch | ends as | other verdicts changed | throughput lost | processor ms per bomb |",
        "|---|---|---|---|---|",
    ]
    note = (
        f"{len(items):,} gradings a batch, {len(items) / clean:,.0f} a processor second without bombs, everything "
        f"included (this process, pipes, supervisor); medians of {arguments.rounds} rounds. `spin` and `hang` with "
        f"{facts['spin']['bombs']} bombs, since each costs its limit."
    )
    replace_between_markers(ROOT / "docs" / "grading.md", "grading_isolation.py", "\n".join([*head, *rows, "", note]))
    print(json.dumps(facts, indent=1))


def _row(kind: str, fact: dict[str, Any]) -> str:
    names = {
        "answers": "hostile answers, real grader",
        "die": "the grader exits",
        "segfault": "the grader crashes (SIGSEGV)",
        "hoard": "the grader runs out of memory",
        "raise": "the grader raises",
        "spin": f"the grader computes for ever (limit {LIMITS.cpu_s:g} s)",
        "hang": f"the grader sleeps for ever (limit {LIMITS.wall_s:g} s)",
    }
    outcomes = ", ".join(f"`{name}`" for name in fact["outcomes"])
    lost = "–" if kind in ("spin", "hang") else f"{100 * fact['throughput_lost']:.1f}%"
    return f"| {names[kind]} | {outcomes} | {fact['changed']} | {lost} | {fact['ms_per_bomb']:,.1f} |"


if __name__ == "__main__":
    main()
