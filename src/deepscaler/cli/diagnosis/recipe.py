"""What a recipe needs of the machine it would run on: engine, model, data, memory, disk. Loads no model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from deepscaler.cli.diagnosis.finding import GIB, Finding, amount
from deepscaler.cli.diagnosis.machine import free_disk, num_gpus, usable_memory
from deepscaler.config import Recipe, parts
from deepscaler.config.cluster_checks import num_learner_ranks, num_samplers
from deepscaler.config.memory import FLOAT32, ModelShape, cpu_peak
from deepscaler.cpu import available_cores
from deepscaler.observability.counts import counted

OPTIMIZER_BYTES = 2 * FLOAT32  # per parameter: the two moments of AdamW


def recipe_needs(recipe: Recipe, run_dir: Path) -> Iterator[Finding]:
    """run_dir: where checkpoints would be written."""
    yield _engine(recipe)
    yield from _cluster(recipe)
    yield _model(recipe)
    for source in [recipe.data.source, *(each.path for each in recipe.data.sources)]:
        yield _data(source)
    shape = ModelShape.of_recipe(recipe)
    if shape is None:
        yield Finding("sizes", "note", "memory and disk are known once the model's config.json is on this machine")
        return
    yield _gpu_memory(recipe, shape) if num_gpus() else _cpu_memory(recipe, shape)
    yield _checkpoints(recipe, shape, run_dir)


def _engine(recipe: Recipe) -> Finding:
    try:
        parts.require_engine(recipe.rollout.engine, recipe.rollout)
    except ValueError as error:
        return Finding("engine", "missing", str(error))
    rollout, here = recipe.rollout, num_gpus()
    each = rollout.vllm_tensor_parallel * rollout.vllm_pipeline_parallel
    if rollout.vllm_python and 0 < here < each:
        text = f"a vLLM server takes {counted(each, 'GPU')} (rollout.vllm_tensor_parallel and _pipeline_parallel)"
        return Finding("engine", "missing", f"{text}, this machine has {here}")
    return Finding("engine", "ok", f"rollout.engine = {rollout.engine!r} is installed")


def _cluster(recipe: Recipe) -> Iterator[Finding]:
    kind = recipe.cluster.kind
    try:
        parts.require_cluster(kind)
    except ValueError as error:
        yield Finding("cluster", "missing", str(error))
        return
    wanted, here = (recipe.cluster.learner_gpus or 0) + (recipe.cluster.rollout_gpus or 0), num_gpus()
    if wanted > here:
        text = f"{counted(wanted, 'GPU')} are asked for, this machine has {here}; --address looks at a Ray cluster"
        yield Finding("cluster", "note", text)
    else:
        yield Finding("cluster", "ok", f"cluster.kind = {kind!r}")


def workers_fit(recipe: Recipe, cores: int, gpus: int, where: str) -> Finding:
    """Whether the actors of cluster.kind = "ray" have room. where: whose cores and GPUs these are."""
    cluster = recipe.cluster
    wanted_gpus = (cluster.learner_gpus or 0) + (cluster.rollout_gpus or 0)
    wanted_cores = num_learner_ranks(cluster) + num_samplers(cluster)
    wanted = f"{counted(wanted_cores, 'core')} and {counted(wanted_gpus, 'GPU')} for learner ranks and samplers"
    if wanted_gpus > gpus or wanted_cores > cores:
        has = f"{where} has {counted(cores, 'core')} and {counted(gpus, 'GPU')}"
        return Finding("workers", "missing", f"{wanted} are asked for, {has}; lower them, or add machines")
    return Finding("workers", "ok", wanted)


def _model(recipe: Recipe) -> Finding:
    path = recipe.model.path
    if path is None:
        return Finding("model", "ok", "made by the recipe's [sft] section")
    if Path(path).is_dir():
        return Finding("model", "ok", path)
    if Path(path).is_file():
        return _gguf(path)
    return _hub("model", "models", path)


def _gguf(path: str) -> Finding:
    if find_spec("gguf") is None:
        return Finding("model", "missing", f"{path} needs the package gguf: pip install 'deepscaler[gguf]'")
    return Finding("model", "ok", f"{path}, to be dequantised into runs/bases once")


def _data(source: str) -> Finding:
    if source in ("synthetic", "mix"):
        return Finding(
            "data", "ok", {"synthetic": "made by the program", "mix": "the sources of [[data.sources]]"}[source]
        )
    if Path(source).exists():
        return Finding("data", "ok", source)
    return _hub("data", "datasets", source)


def _hub(topic: str, kind: str, name: str) -> Finding:
    """A name that is no path: is it in the hub's cache here, or can it be downloaded?"""
    if name.count("/") != 1 or name.startswith((".", "/")):
        return Finding(topic, "missing", f"{name} does not exist here; is this machine's path another one?")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    if (cache / f"{kind}--{name.replace('/', '--')}").is_dir():
        return Finding(topic, "ok", f"{name}, in the cache {cache}")
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return Finding(topic, "missing", f"{name} is not in the cache {cache}, and HF_HUB_OFFLINE is set")
    return Finding(topic, "note", f"{name} will be downloaded to {cache}; all machines of a run need it")


def _gpu_memory(recipe: Recipe, shape: ModelShape) -> Finding:
    """Of one GPU that holds everything; ranks of a sharded learner divide it."""
    import torch

    copies = 2 + (recipe.algorithm.kl.coefficient > 0)  # weights, gradients, and the reference
    needed = shape.num_parameters * (copies * FLOAT32 + OPTIMIZER_BYTES)
    there = min(torch.cuda.get_device_properties(i).total_memory for i in range(num_gpus()))
    otherwise = (
        f"weights, gradients and optimizer alone take {needed / GIB:.1f} GiB; shard the learner over more GPUs "
        "(docs/scaling.md)"
    )
    return amount("GPU memory", there, needed, otherwise)


def _cpu_memory(recipe: Recipe, shape: ModelShape) -> Finding:
    processes = recipe.training.processes or available_cores()
    peak = cpu_peak(recipe, shape, processes if recipe.model.dtype == "float32" else 1).total
    otherwise = (
        f"a step takes about {peak / GIB:.1f} GiB on CPU; lower training.processes, "
        "training.tokens_per_micro_batch or rollout.max_active"
    )
    return amount("memory of a step", usable_memory(), peak, otherwise, status="missing")


def _checkpoints(recipe: Recipe, shape: ModelShape, run_dir: Path) -> Finding:
    each = shape.num_parameters * (FLOAT32 + OPTIMIZER_BYTES)
    count = recipe.checkpoint.keep + 1 + len(recipe.stages)  # one is written before the oldest is removed
    otherwise = f"{count} checkpoints of {each / GIB:.1f} GiB do not fit in {run_dir}; lower checkpoint.keep"
    return amount("checkpoints", free_disk(run_dir), count * each, otherwise, status="missing")
