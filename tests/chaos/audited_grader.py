"""The real grader under an audit hook that notes whatever could write, run, load or dial; and one that evaluates."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from deepscaler.rewards import math_reward
from deepscaler.rewards.isolation.worker import refuse
from deepscaler.types import Verdict

_NOTED = ("exec", "compile", "import", "marshal.", "pickle.", "code.", "builtins.", "sys._getframe", "mmap.")
noted: list[str] = []
_listening: list[bool] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event.startswith(_NOTED):
        noted.append(f"{event} {str(arguments)[:80]}")
        return
    try:
        refuse(event, arguments)  # what the worker itself refuses: writing, processes, sockets, the file system
    except PermissionError as error:
        noted.append(str(error))


def grade(
    completion: str, references: Sequence[str], *, thinking_prefilled: bool, tolerance: float | None = None
) -> Verdict:
    """As the real one; the detail holds what the audit noted meanwhile."""
    if not _listening:
        _listening.append(True)
        math_reward.grade(r"\boxed{\sin 1}", ["\\cos 2"], thinking_prefilled=False)  # what loads lazily loads now
        sys.addaudithook(_note)
    noted.clear()
    verdict = math_reward.grade(completion, references, thinking_prefilled=thinking_prefilled, tolerance=tolerance)
    return replace(verdict, detail=json.dumps(noted))


def evaluate(
    completion: str, references: Sequence[str], *, thinking_prefilled: bool, tolerance: float | None = None
) -> Verdict:
    """The fault that the audit is for: Python's own evaluation of what stands in the box."""
    verdict = grade(completion, references, thinking_prefilled=thinking_prefilled, tolerance=tolerance)
    noted.clear()
    box = re.search(r"\\boxed\{(.*)\}", completion, re.DOTALL)
    try:
        eval(box.group(1) if box else "")
    except Exception as error:
        noted.append(type(error).__name__)
    return replace(verdict, detail=json.dumps(noted))
