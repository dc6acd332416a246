"""Model families: what each file says of a layer is what transformers' layer has."""

from __future__ import annotations

import pytest
from torch import nn

from deepscaler.modeling.families.registry import FAMILIES, family_of


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parts_of_a_layer_are_all_its_modules_with_weights(tiny_model, name):
    """A family that forgot a module, such as the norm of the keys, would sample from another model."""
    model = tiny_model(name, accelerated=False)
    assert family_of(model).model_type == name
    for layer in model.base_model.layers:
        parts = family_of(model).parts(layer)
        named = {id(part) for part in parts[1:] if part is not None}
        assert named == {id(module) for module in layer.modules() if list(module.parameters(recurse=False))}
        assert all(isinstance(part, nn.Module) for part in parts if part is not None)
        assert parts.attention.layer_idx == list(model.base_model.layers).index(layer)
