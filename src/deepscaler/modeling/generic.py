"""Causal LMs of transformers without a family here: their own forward, attention mask and cache, nothing replaced.

Slower than a family's, and exact: whatever a model does between its layers and its logits is done by its own code.
S sequences, T tokens, C positions, V vocabulary.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from deepscaler import cpu
from deepscaler.config.memory import FLOAT32, ModelShape
from deepscaler.modeling.families.registry import family_of, has_family
from deepscaler.modeling.head import forbidden_ids, leave_out

CACHE_NAMES = ("cache", "past_key_values", "cache_params")
LOGIT_COPIES = 4  # of a position, in float32: logits, their logarithms, probabilities and a gradient


def is_generic(model: Any) -> bool:
    """Whether the model has no family here."""
    return not has_family(model.config)


def why_impossible(config: Any) -> str | None:
    """Why a model of this configuration cannot be trained and sampled from; None where it can."""
    if has_family(config):
        return None
    if getattr(config, "is_encoder_decoder", False):
        return f"model_type {config.model_type!r} has an encoder; only causal language models can be trained"
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return (
            f"model_type {config.model_type!r} is no causal language model of transformers; take one whose class is "
            "called ...ForCausalLM"
        )
    return None


def note_of(config: Any) -> str | None:
    """What to say at the start; None for a model with a family."""
    if has_family(config):
        return None
    return (
        f"note: model type {config.model_type} has no family here: its own forward and cache in transformers are used, "
        "exact and slower (docs/models.md)"
    )


def activation_bytes(model: Any) -> int:
    """Bytes that the backward pass keeps of one token, in float32.

    Without a family that includes logits, which are made for all tokens of a micro-batch at once.
    """
    if not is_generic(model):
        return ModelShape.of_config(model.config.to_dict()).activation_bytes_per_token
    config = model.config
    layers, width = int(config.num_hidden_layers), int(config.hidden_size)
    inner = getattr(config, "intermediate_size", None)
    inner = inner if isinstance(inner, int) else 4 * width
    vocabulary = len(model.get_output_embeddings().weight)
    return FLOAT32 * (layers * (12 * width + 3 * inner) + LOGIT_COPIES * vocabulary)


def decoder_layers(model: Any) -> list[nn.Module]:
    """The layers, as transformers divides the model over devices; the whole list of a model with a family."""
    if not is_generic(model):
        return list(model.base_model.layers)
    names = set(model._no_split_modules or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def own_logits(
    model: Any,
    ids: Tensor,
    rows: Tensor,
    columns: Tensor,
    *,
    half: torch.dtype | None = None,
    cache: Any = None,
    **inputs: Any,
) -> tuple[Tensor, Any]:
    """Logits [C,V] after the tokens at (rows, columns) of `ids` (int64 [S,T]), and the cache where one was asked for.

    The hidden states of all other positions are left out in front of the model's head, so that its own code for what
    follows the head (scaling, caps) still runs and no logits of the others are made. half: autocast to this type.
    cache: of the tokens before. inputs: further ones of the model's forward. Ids without a token have no probability.
    """
    if cache is not None:
        inputs[_cache_name(type(model))] = cache
    with _only(model, rows, columns), torch.autocast(ids.device.type, half or torch.bfloat16, enabled=half is not None):
        result = model(input_ids=ids, return_dict=True, **inputs)
    logits = result.logits[0]
    return leave_out(logits, forbidden_ids(model)), _cache_of(result) if inputs.get("use_cache") else None


def _cache_of(result: Any) -> Any:
    return next((result[name] for name in CACHE_NAMES if result.get(name) is not None), None)


@functools.cache
def _cache_name(kind: type[nn.Module]) -> str:
    """transformers renames the argument in v5, model by model."""
    taken = inspect.signature(kind.forward).parameters
    return next((name for name in CACHE_NAMES if name in taken), "past_key_values")


@contextmanager
def _only(model: Any, rows: Tensor, columns: Tensor) -> Iterator[None]:
    def choose(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        hidden, *others = arguments
        return (hidden[rows, columns].unsqueeze(0), *others)

    hook = model.get_output_embeddings().register_forward_pre_hook(choose)
    try:
        yield
    finally:
        hook.remove()


def accelerated(model: Any, device: torch.device | None = None) -> Any:
    """The model with the layers of this package where it has a family; on CPU in float32 they are faster.

    device: where the weights will be, for a model on the meta device.
    """
    return model if is_generic(model) else cpu.accelerate(model, family_of(model).parts, device)
