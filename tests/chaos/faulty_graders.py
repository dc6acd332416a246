"""Graders that misbehave on command; the pool's tests start them in its worker processes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from deepscaler.types import Outcome, Verdict

CORRECT = Verdict(Outcome.CORRECT, 1.0, "7", "fine")


def misbehave(completion: str, references: list[str], *, thinking_prefilled: bool) -> Verdict:
    """Do what the completion says."""
    match completion.partition(":")[0]:
        case "hang":
            time.sleep(3600)
        case "die":
            os._exit(3)
        case "raise":
            raise RuntimeError("cannot grade this")
        case "eat":
            return Verdict(Outcome.CORRECT, 1.0, str(len(bytearray(2**34))))
        case "print":
            print("[0, 'correct', 1.0, null, '', 0]", flush=True)
            sys.stderr.write("x" * 2**20)
        case "write":
            with Path(completion.partition(":")[2]).open("w") as file:
                file.write("written")
        case "environment":
            return Verdict(Outcome.CORRECT, 1.0, ",".join(sorted(os.environ)))
        case "pid":
            return Verdict(Outcome.CORRECT, 1.0, str(os.getpid()))
        case "recurse":
            return misbehave(completion, references, thinking_prefilled=thinking_prefilled)
        case _:
            pass
    return CORRECT
