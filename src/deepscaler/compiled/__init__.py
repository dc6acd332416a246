"""Functions compiled by numba for CPU, shared by sampling and learning."""

from __future__ import annotations

import functools


@functools.cache
def has_numba() -> bool:
    """Whether functions can be compiled: numba is installed and knows this version of numpy."""
    try:
        import numba
    except ImportError:
        return False
    return bool(numba.__version__)
