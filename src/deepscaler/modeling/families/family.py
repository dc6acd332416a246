"""A model family: the modules of one of its layers, by what they compute.

Learner, engine and the layers on CPU compute a layer as
    hidden += out(attend(rotary(query_norm(query(x))), rotary(key_norm(key(x))), value(x)))   x = attention_norm(hidden)
    hidden += down(silu(gate(x)) * up(x))                                                     x = mlp_norm(hidden)
A family with these layers says where its modules are, nothing else. One with other layers leaves them to transformers:
learner and engine then supply attention only, packed or over the paged cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple


class LayerParts(NamedTuple):
    """The modules of one layer of a transformers model.

    attention: transformers' attention module, for its `config`, `head_dim`, `scaling` and `layer_idx`. Norms are RMS
    norms with `weight` and `variance_epsilon`; query_norm and key_norm are over the width of a head, None in families
    without. All others are linear layers. window: tokens that a token sees, itself included; None: all before it.
    """

    attention: Any
    attention_norm: Any
    query: Any
    key: Any
    value: Any
    out: Any
    mlp_norm: Any
    gate: Any
    up: Any
    down: Any
    query_norm: Any = None
    key_norm: Any = None
    window: int | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """model_type: as in config.json, transformers' name.

    parts: the modules of one of its layers; None: layers of another kind, computed by their own code.
    covers: whether a configuration is without what the family's code leaves out, such as caps on logits.
    """

    model_type: str
    parts: Callable[[Any], LayerParts] | None
    covers: Callable[[Any], bool] = lambda config: True
