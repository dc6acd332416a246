"""PYTHONPATH of a child process that imports modules of this folder."""

from __future__ import annotations

import os
from pathlib import Path

PYTHONPATH = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
