"""Public graders behind one call, each in a process of its own; used by benchmarks/grading.py.

    python benchmarks/graders.py NAME < CASES.jsonl    one JSON line per case: id, correct, cpu_s or error

Each is given what it is good at: the gold answer in the spelling its documentation asks for, and the text after the
last `</think>` for those that know no thinking part.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from importlib import metadata

Judge = Callable[[str, list[str]], bool]  # response, alternatives -> correct


def ours() -> Judge:
    from deepscaler.rewards.profiles.deepscaler import grade
    from deepscaler.types import GradeItem

    return lambda response, golds: grade(GradeItem(response, golds, thinking_prefilled=False)).reward == 1.0


def math_verify() -> Judge:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    # Its LaTeX reading, boxed answers first, with its own limits of 5 s each for parsing and verifying.
    answers = (LatexExtractionConfig(boxed_match_priority=0, try_extract_without_anchor=False), ExprExtractionConfig())

    def judge(response: str, golds: list[str]) -> bool:
        answer = parse(response.rpartition("</think>")[2], answers)
        return any(verify(parse(f"\\boxed{{{gold}}}"), answer) for gold in golds)

    return judge


def trl() -> Judge:
    from trl.rewards.accuracy_rewards import accuracy_reward

    def judge(response: str, golds: list[str]) -> bool:
        message = [{"role": "assistant", "content": response.rpartition("</think>")[2]}]
        return any(accuracy_reward([message], [f"${gold}$"])[0] == 1.0 for gold in golds)

    return judge


GRADERS: dict[str, tuple[Callable[[], Judge], str]] = {
    "ours": (ours, "deepscaler"),
    "math-verify": (math_verify, "math-verify"),
    "TRL accuracy_reward": (trl, "trl"),
}


def version(name: str) -> str:
    if name == "ours":
        from deepscaler.rewards.profiles.deepscaler import GRADER_VERSION

        return GRADER_VERSION
    return metadata.version(GRADERS[name][1])


def golds_of(case: dict) -> list[str]:
    return [str(g) for g in (case["gold"] if isinstance(case["gold"], list) else [case["gold"]])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(GRADERS))
    name = parser.parse_args().name
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a grader prints
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    judge = GRADERS[name][0]()
    judge("</think>\\boxed{\\frac{1}{2}}", ["\\frac{2}{4}"])  # what loads at first use is not timed
    answers.write("{}\n")
    for line in sys.stdin:
        case = json.loads(line)
        result = {"id": case["id"]}
        start = time.process_time()
        try:
            result["correct"] = bool(judge(case["response"], golds_of(case)))
        except Exception as error:
            result["error"] = f"{type(error).__name__}: {error}"[:200]
        result["cpu_s"] = time.process_time() - start
        answers.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
