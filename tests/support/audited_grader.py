"""The real grader under an audit hook that notes whatever could write, run, load or dial; and one that evaluates."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from typing import Any

from deepscaler.rewards.isolation.worker import refuse
from deepscaler.rewards.profiles import deepscaler
from deepscaler.types import GradeItem, Verdict

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


def grade(item: GradeItem) -> Verdict:
    """As the real one; the detail holds what the audit noted meanwhile."""
    if not _listening:
        _listening.append(True)
        # What loads lazily loads now.
        deepscaler.grade(GradeItem(r"\boxed{\sin 1}", ["\\cos 2"], thinking_prefilled=False))
        sys.addaudithook(_note)
    noted.clear()
    verdict = deepscaler.grade(item)
    return replace(verdict, detail=json.dumps(noted))


def evaluate(item: GradeItem) -> Verdict:
    """The fault that the audit is for: Python's own evaluation of what stands in the box."""
    verdict = grade(item)
    noted.clear()
    box = re.search(r"\\boxed\{(.*)\}", item.completion, re.DOTALL)
    try:
        eval(box.group(1) if box else "")
    except Exception as error:
        noted.append(type(error).__name__)
    return replace(verdict, detail=json.dumps(noted))
