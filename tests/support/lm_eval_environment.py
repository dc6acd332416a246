"""Where lm-evaluation-harness is installed: too heavy for the environment of the other tests."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest


def lm_eval_python() -> str:
    """An interpreter that has lm-eval. Skips the test where there is none."""
    named = os.environ.get("LM_EVAL_PYTHON")
    if named:
        return named
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed; `make test-lm-eval` makes an environment for it and runs this")
    return sys.executable
