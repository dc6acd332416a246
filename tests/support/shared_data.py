"""The public benchmark files kept beside a checkout, which tests read but the project does not ship."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[3] / "shared"


def shared(*parts: str) -> Path:
    """The path below ../shared; skips the test, saying so, where this checkout has none."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"needs {path}, which this checkout does not have")
    return path
