"""Model families: what each file says of a layer is what transformers' layer has."""

from __future__ import annotations

import pytest
from torch import nn

from deepscaler.modeling.families.registry import FAMILIES, FUSED, family_of, has_family


@pytest.mark.parametrize("name", FUSED)
def test_the_parts_of_a_layer_are_all_its_modules_with_weights(tiny_model, name):
    """A family that forgot a module, such as the norm of the keys, would sample from another model."""
    model = tiny_model(name, accelerated=False)
    parts_of = family_of(model).parts
    assert parts_of is not None
    assert family_of(model).model_type == name
    for layer in model.base_model.layers:
        parts = parts_of(layer)
        modules = [part for part in parts if isinstance(part, nn.Module)]
        named = {id(part) for part in modules if part is not parts.attention}
        assert named == {id(module) for module in layer.modules() if list(module.parameters(recurse=False))}
        assert parts.attention.layer_idx == list(model.base_model.layers).index(layer)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_covers_its_models_and_leaves_others_to_their_own_code(tiny_model, name):
    config = tiny_model(name).config
    assert has_family(config)
    config.final_logit_softcapping = 30.0
    assert has_family(config) == (name != "gemma3_text")
