"""Where the vLLM servers of `rollout.engine = "vllm_server"` (in evaluations `engine.kind`) come from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deepscaler.config.setting import Section, setting

Url = Annotated[str, Field(pattern=r"^https?://[^@?\s]+$")]


class VllmServersSection(Section):
    """Settings of [rollout] and of an evaluation's [engine] that begin with `vllm_`."""

    vllm_python: str | None = setting(
        None,
        shapes="samples",
        compared="rounding",
        added=True,
        doc="Python of an environment that has vLLM: servers are started with it",
    )
    vllm_servers: int = setting(
        1,
        unit="servers",
        shapes="samples",
        compared="rounding",
        added=True,
        doc="started with vllm_python, on vllm_tensor_parallel * vllm_pipeline_parallel GPUs each",
        gt=0,
    )
    vllm_args: tuple[str, ...] = setting(
        (),
        shapes="samples",
        compared="rounding",
        added=True,
        doc="further arguments of the servers, such as --gpu-memory-utilization=0.5",
    )
    vllm_urls: tuple[Url, ...] = setting(
        (),
        shapes="samples",
        compared="rounding",
        added=True,
        doc="servers that run already, instead of vllm_python (docs/engines.md); their key is in VLLM_API_KEY",
    )
    vllm_weights_dir: str | None = setting(
        None,
        shapes="nothing",
        added=True,
        doc="directory that this machine and vllm_urls share, for published weights",
    )
    vllm_sleep_level: Literal[0, 1, 2] = setting(
        0,
        shapes="nothing",
        added=True,
        doc="of the servers while the learner has their GPU: 1 keeps their weights in host memory, 2 drops them; "
        "0 = awake",
    )
    vllm_tensor_parallel: int = setting(
        1,
        unit="GPUs",
        shapes="samples",
        compared="rounding",
        added=True,
        doc="over which a server started with vllm_python splits every matrix",
        gt=0,
    )
    vllm_pipeline_parallel: int = setting(
        1,
        unit="stages",
        shapes="samples",
        compared="rounding",
        added=True,
        doc="into which a server started with vllm_python splits the layers",
        gt=0,
    )
    vllm_weight_transfer: Literal["auto", "files", "ipc", "nccl"] = setting(
        "auto",
        shapes="nothing",
        added=True,
        doc="how published weights get into the servers: files, or vLLM's weight transfer over CUDA IPC (same GPUs' "
        "machine) or NCCL (any machine); auto = what server and GPUs allow, else files; in training alone",
    )
