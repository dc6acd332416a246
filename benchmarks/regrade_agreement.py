"""Agreement of our verdicts on stored completions with stable ones of math-verify. Written to docs/evaluation.md.

    python benchmarks/regrade_agreement.py [--benchmarks ../shared/data/benchmarks] [--limit N]

Completions for every problem of the five benchmarks: its reference in a box, the same with one digit changed, and the
reference of the next problem. They are stored as an evaluation stores them and graded from there, by the grader that
`deepscaler regrade` calls. A verdict of math-verify is stable when the answer verified against the
reference and the reference against the answer give the same one. Every disagreement is listed. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from markers import replace_between_markers
from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from deepscaler.config.evaluation import COMPETITION
from deepscaler.data.benchmarks.load import load_benchmark
from deepscaler.evaluation.samples import read_samples, samples_table
from deepscaler.rewards.profiles.deepscaler import grade
from deepscaler.types import GradeItem, Problem

ROOT = Path(__file__).resolve().parents[1]
READING = (LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False), ExprExtractionConfig())
SHOWN = 60  # characters of an answer in the list
_DIGIT = re.compile(r"\d")


def completions(problems: tuple[Problem, ...], draw: random.Random) -> Iterator[tuple[Problem, str]]:
    for index, problem in enumerate(problems):
        reference = problem.references[0]
        other = problems[(index + 1) % len(problems)].references[0]
        for answer in dict.fromkeys((reference, changed(reference, draw), other)):
            yield problem, f"Thus the answer is $\\boxed{{{answer}}}$."


def changed(text: str, draw: random.Random) -> str:
    """One digit replaced by another, where there is one."""
    places = [match.start() for match in _DIGIT.finditer(text)]
    if not places:
        return text
    place = draw.choice(places)
    return text[:place] + draw.choice([d for d in "123456789" if d != text[place]]) + text[place + 1 :]


def stored(directory: Path, limit: int | None, out: Path) -> list[dict[str, Any]]:
    """The completions as rows of a samples.parquet that was written and read back."""
    draw = random.Random(7)
    rows = []
    for name in COMPETITION:
        problems = load_benchmark(name, directory).problems[:limit]
        numbers: dict[str, int] = {}
        for problem, text in completions(problems, draw):
            number = numbers[problem.id] = numbers.get(problem.id, -1) + 1
            rows.append(row(name, problem, number, text))
    out.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(samples_table(rows), out)
    return read_samples(out).to_pylist()


def row(benchmark: str, problem: Problem, number: int, text: str) -> dict[str, Any]:
    verdict = grade(GradeItem(text, problem.references, thinking_prefilled=False, tolerance=problem.tolerance))
    return {
        "benchmark": benchmark,
        "problem_id": problem.id,
        "sample_index": number,
        "completion": text,
        "token_ids": None,
        "num_tokens": len(text.split()),
        "finish_reason": "stop",
        "outcome": verdict.outcome.value,
        "reward": verdict.reward,
        "answer": verdict.answer,
        "detail": verdict.detail,
        "seed": number,
        "latency_s": 0.0,
        "references": list(problem.references),
        "source": problem.source,
        "difficulty": problem.difficulty,
        "tolerance": problem.tolerance,
    }


def one_mind(text: str, references: list[str]) -> bool | None:
    """math-verify's verdict, None where it depends on which side is called the gold one."""
    answer = parse(text, READING)
    golds = [parse(f"\\boxed{{{reference}}}") for reference in references]
    forwards = any(verify(gold, answer) for gold in golds)
    return forwards if any(verify(answer, gold) for gold in golds) == forwards else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--benchmarks", type=Path, default=ROOT.parent / "shared" / "data" / "benchmarks")
    parser.add_argument("--limit", type=int, help="problems of each benchmark")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        rows = stored(options.benchmarks, options.limit, Path(directory) / "samples.parquet")
    cases, apart = 0, []
    for one in rows:
        again = grade(
            GradeItem(one["completion"], one["references"], thinking_prefilled=False, tolerance=one["tolerance"])
        )
        theirs = one_mind(one["completion"], one["references"])
        if theirs is None:
            continue
        cases += 1
        if theirs != (again.reward == 1.0):
            apart.append((one["problem_id"], again.answer or "", one["references"][0], again.reward == 1.0))
    share = 1 - len(apart) / cases
    lines = [
        f"math-verify gives a stable verdict for {cases:,} of {len(rows):,} completions; "
        f"{share:.2%} of these verdicts equal ours. The others:\n",
        "| problem | answer | reference | ours |",
        "|---|---|---|---|",
        *(f"| {i} | `{_cell(a)}` | `{_cell(r)}` | {'correct' if ok else 'wrong'} |" for i, a, r, ok in apart),
    ]
    replace_between_markers(ROOT / "docs" / "evaluation.md", "regrade_agreement.py", "\n".join(lines))
    print(json.dumps({"completions": len(rows), "unanimous": cases, "agree_frac": share, "apart": apart}))


def _cell(text: str) -> str:
    return (text if len(text) <= SHOWN else text[:SHOWN] + "…").replace("|", "\\|").replace("`", "'").replace("\n", " ")


if __name__ == "__main__":
    main()
