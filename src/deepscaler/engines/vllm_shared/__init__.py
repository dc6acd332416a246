"""Common to vLLM in this process (`engines/vllm`) and as a server (`engines/vllm_server`).

`in_server/deepscaler_vllm/` also runs inside a server, in an environment without this package: its modules need the
standard library, torch and safetensors only, and import each other relatively. `SEARCH_PATH` goes into PYTHONPATH.
"""

from __future__ import annotations

from pathlib import Path

SEARCH_PATH = Path(__file__).parent / "in_server"
