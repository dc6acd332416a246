"""`python -m deepscaler_vllm.launch PARENT_PID ARGUMENTS…`: vLLM's OpenAI server, which dies with its parent.

vLLM's engine and worker processes outlive a server that is killed. They are started by the method `spawn`, which
imports this module in each of them, so each asks to be killed with the process that started it.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the one that started it ends (Linux only). parent: its process id."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the request took effect
            os._exit(1)


def main() -> None:
    die_with_parent(int(sys.argv.pop(1)))
    runpy.run_module("vllm.entrypoints.openai.api_server", run_name="__main__")


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # an engine or worker process
    die_with_parent(os.getppid())
