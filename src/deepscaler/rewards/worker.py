"""The process that grades: reads batches as lines of JSON, answers one line per completion, and holds no secrets.

Started by `pool` as `python -m deepscaler.rewards.worker MEMORY_MIB MODULE:FUNCTION`. It has an address-space limit,
may write no file, and dies with the process that started it. What it grades may exhaust or kill it; the pool notices.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from deepscaler.lifetime import die_with_parent
from deepscaler.types import Outcome, Verdict

READY = "ready"
MAX_DETAIL_CHARACTERS = 500
Grade = Callable[..., Verdict]


def main(arguments: list[str]) -> None:
    die_with_parent()
    memory_mib, path = int(arguments[0]), arguments[1]
    module, _, function = path.partition(":")
    grade: Grade = getattr(importlib.import_module(module), function)
    # The answers have a descriptor of their own: whatever else prints goes nowhere.
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    _limit(memory_mib)
    _say(answers, [READY])
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    for line in sys.stdin:
        for index, (completion, references, prefilled) in enumerate(json.loads(line)):
            _say(answers, [index, *grade_one(grade, completion, references, prefilled)])


def grade_one(grade: Grade, completion: str, references: list[str], prefilled: bool) -> list[Any]:
    """[outcome, reward, answer, detail, seconds]; whatever the grader raises becomes `grader_failed`."""
    start = time.perf_counter()
    try:
        v = grade(completion, references, thinking_prefilled=prefilled)
    except (Exception, MemoryError) as error:
        detail = f"{type(error).__name__}: {error}"[:MAX_DETAIL_CHARACTERS]
        v = Verdict(Outcome.GRADER_FAILED, 0.0, detail=detail)
    return [v.outcome.value, v.reward, v.answer, v.detail[:MAX_DETAIL_CHARACTERS], time.perf_counter() - start]


def _limit(memory_mib: int) -> None:
    for kind, most in ((resource.RLIMIT_AS, memory_mib * 2**20), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        limit = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (limit, limit))


def _say(file: Any, value: list[Any]) -> None:
    file.write(json.dumps(value) + "\n")
    file.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
