"""Rules on engines and on what overlaps with sampling; `checks.py` lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deepscaler.config.models import Recipe
from deepscaler.config.parts import ENGINES
from deepscaler.config.sections.vllm_servers import VllmServersSection


def engine_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    name = recipe.rollout.engine
    engine = ENGINES[name]
    if recipe.cluster.kind == "torchrun" and not engine.beside_ranks:
        yield (
            f"rollout.engine = {name!r} with cluster.kind = 'torchrun': an engine in the process would take over the "
            "ranks' process group; set rollout.engine = 'torch', which samples on every rank, or 'vllm_server'"
        )
    if recipe.rollout.stop and not engine.stop_strings:
        yield (
            f"rollout.engine = {name!r} with rollout.stop: it runs without a tokenizer here and cannot match strings; "
            "set rollout.stop_token_ids instead, or rollout.engine = 'torch'"
        )
    if recipe.model.float32_head and not engine.float32_head:
        yield (
            f"rollout.engine = {name!r} with model.float32_head: it has its own computation of logits, so learner and "
            "sampler would differ; set model.float32_head = false, or rollout.engine = 'torch'"
        )


def overlap_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    name, kind, lag = recipe.rollout.engine, recipe.cluster.kind, recipe.rollout.max_policy_lag
    if lag > 0 and kind == "torchrun":
        yield (
            f"rollout.max_policy_lag = {lag} with cluster.kind = 'torchrun': its ranks sample and learn in turns, "
            "in the same processes; set rollout.max_policy_lag = 0, or cluster.kind = 'ray'"
        )
    if lag > 0 and kind == "local" and not ENGINES[name].overlaps:
        yield (
            f"rollout.max_policy_lag = {lag} with rollout.engine = {name!r}: it samples in the learner's process, so "
            "both take turns; set rollout.max_policy_lag = 0, or an engine with processes of its own"
        )
    if lag > 0 and recipe.rollout.vllm_sleep_level > 0:
        yield (
            f"rollout.max_policy_lag = {lag} with rollout.vllm_sleep_level = {recipe.rollout.vllm_sleep_level}: "
            "servers that sample during the update cannot give their GPU to it; set one of them to 0"
        )


def vllm_servers_rule(recipe: Recipe, _: Mapping[str, str]) -> Iterator[str]:
    rollout = recipe.rollout
    fields = VllmServersSection.model_fields
    given = [name for name, field in fields.items() if getattr(rollout, name) != field.default]
    if rollout.engine != "vllm_server":
        if given:
            yield (
                f"rollout.{given[0]} does nothing with rollout.engine = {rollout.engine!r}; remove it, or set "
                "rollout.engine = 'vllm_server'"
            )
        return
    if bool(rollout.vllm_python) == bool(rollout.vllm_urls):
        both = "both say" if rollout.vllm_python else "do not say"
        yield (
            f"rollout.vllm_python and rollout.vllm_urls {both} where the servers of rollout.engine = 'vllm_server' "
            "come from; set one of them"
        )
    if rollout.vllm_urls and recipe.cluster.kind == "ray":
        yield (
            f"rollout.vllm_urls with cluster.kind = {recipe.cluster.kind!r}: every sampler would load weights into all "
            "of these servers; set rollout.vllm_python, with which each sampler starts its own, or cluster.kind = "
            "'local'"
        )
    sent = rollout.vllm_weight_transfer in ("ipc", "nccl")
    if sent and recipe.cluster.kind != "local":
        yield (
            f"rollout.vllm_weight_transfer = {rollout.vllm_weight_transfer!r} with cluster.kind = "
            f"{recipe.cluster.kind!r}: the ranks of its learner publish files; set rollout.vllm_weight_transfer = "
            "'files', or cluster.kind = 'local'"
        )
    if rollout.vllm_urls and not rollout.vllm_weights_dir and not sent:
        yield (
            "rollout.vllm_urls without rollout.vllm_weights_dir: the servers load every published version from files; "
            "name a directory that they share with this machine, or set rollout.vllm_weight_transfer = 'nccl'"
        )
    if recipe.cluster.kind == "ray" and rollout.vllm_tensor_parallel * rollout.vllm_pipeline_parallel > 1:
        yield (
            "rollout.vllm_tensor_parallel and rollout.vllm_pipeline_parallel with cluster.kind = 'ray': each of its "
            "samplers has one GPU, on which it starts its own servers; set both to 1, or cluster.kind = 'local'"
        )
    for name in ("vllm_servers", "vllm_args", "vllm_tensor_parallel", "vllm_pipeline_parallel"):
        if rollout.vllm_urls and name in given:
            yield f"rollout.{name} is for servers that rollout.vllm_python starts, not for rollout.vllm_urls; remove it"
