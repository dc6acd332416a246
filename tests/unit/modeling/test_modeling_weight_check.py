"""A model is loaded only when its files hold exactly the weights that its config.json describes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from deepscaler.modeling.families.registry import FAMILIES
from deepscaler.modeling.load import ModelError, checked_config, load_model

Tensors = dict[str, torch.Tensor]
LAYER = "model.layers.1."


def saved(model: Any, directory: Path, change: Callable[[Tensors], object] = lambda tensors: None) -> Path:
    """The model's directory after `change` was done to its tensors."""
    model.save_pretrained(directory)
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, file, metadata={"format": "pt"})
    return directory


def configure(directory: Path, **settings: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    return directory


def refusal(directory: Path) -> str:
    with pytest.raises(ModelError) as caught:
        load_model(directory)
    assert str(directory) in str(caught.value)
    return str(caught.value)


def drop(*parts: str) -> Callable[[Tensors], object]:
    return lambda tensors: [tensors.pop(name) for name in list(tensors) if any(p in name for p in parts)]


def rename(prefix: str) -> Callable[[Tensors], object]:
    def change(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[prefix + name] = tensors.pop(name)

    return change


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_whole_models_are_loaded_as_they_were_saved(tiny_model, tmp_path, family, tied):
    model = tiny_model(family, tied=tied)
    loaded: Any = load_model(saved(model, tmp_path))
    for (name, expected), found in zip(model.named_parameters(), loaded.parameters(), strict=True):
        assert torch.equal(expected, found), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop("lm_head"), ["1 missing: lm_head.weight"]),
        (drop(LAYER), ["12 missing", LAYER, "…"]),
        (drop("bias"), ["6 missing", "model.layers.0.self_attn.q_proj.bias"]),
        (drop("model.norm"), ["1 missing: model.norm.weight"]),
        (rename("base_model.model."), ["missing", "'base_model.model.'", "merge_and_unload"]),
        (rename("_orig_mod."), ["missing", "'_orig_mod.'"]),
        (lambda t: t.update({"model.layers.0.extra.weight": torch.ones(2)}), ["1 that the model does not have"]),
        (lambda t: t.update({LAYER + "mlp.up_proj.lora_A.weight": torch.ones(2)}), ["merge the adapter"]),
        (lambda t: t.update({"lm_head.weight": t["lm_head.weight"][:-1]}), ["lm_head.weight is 39 x 32 instead of"]),
        (lambda t: t.update({"lm_head.weight": t["lm_head.weight"].to(torch.int8)}), ["as I8: quantised"]),
    ],
)
def test_other_weights_than_those_of_the_configuration_are_named(tiny_model, tmp_path, change, words):
    text = refusal(saved(tiny_model(tied=False), tmp_path, change))
    assert all(word in text for word in words), text


def test_layers_beyond_the_configuration_are_surplus(tiny_model, tmp_path):
    directory = configure(saved(tiny_model(), tmp_path), num_hidden_layers=1, layer_types=["full_attention"])
    assert "12 that the model does not have: model.layers.1" in refusal(directory)


def test_what_old_releases_stored_and_what_was_saved_without_a_head_is_read(tiny_model, tmp_path):
    frequencies = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    load_model(saved(tiny_model("llama"), tmp_path / "old", lambda t: t.update(frequencies)))
    model = tiny_model()
    model.model.save_pretrained(tmp_path / "headless")
    loaded: Any = load_model(configure(tmp_path / "headless", tie_word_embeddings=True))
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_a_second_head_beside_a_tied_one_is_refused_and_an_equal_one_is_not(tiny_model, tmp_path):
    def second(change: float) -> Callable[[Tensors], object]:
        return lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + change})

    text = refusal(saved(tiny_model(), tmp_path / "other", second(1.0)))
    assert '"tie_word_embeddings": false' in text
    loaded: Any = load_model(saved(tiny_model(), tmp_path / "equal", second(0.0)))
    loaded.save_pretrained(tmp_path / "again")
    checked: Any = load_model(tmp_path / "again")
    assert checked.lm_head.weight is checked.model.embed_tokens.weight
    untied: Any = load_model(configure(tmp_path / "other", tie_word_embeddings=False))
    untied.save_pretrained(tmp_path / "kept")
    kept: Any = load_model(tmp_path / "kept")
    assert torch.equal(kept.lm_head.weight, untied.lm_head.weight)
    assert not torch.equal(kept.lm_head.weight, kept.model.embed_tokens.weight)


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "fp8", "mxfp4"])
def test_quantised_bases_are_refused_with_one_message(tiny_model, tmp_path, method):
    directory = configure(saved(tiny_model(), tmp_path), quantization_config={"quant_method": method, "bits": 4})
    assert f"is quantised ({method})" in refusal(directory)


def test_a_directory_with_an_adapter_is_refused(tiny_model, tmp_path):
    directory = saved(tiny_model(), tmp_path)
    (directory / "adapter_config.json").write_text('{"base_model_name_or_path": "elsewhere"}')
    assert "holds an adapter" in refusal(directory)


def test_damaged_and_absent_files_are_named(tiny_model, tmp_path):
    directory = tmp_path / "cut"
    file = saved(tiny_model(), directory) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "model.safetensors is damaged" in refusal(directory)
    tiny_model().save_pretrained(tmp_path / "parts", max_shard_size="20KB")
    parts = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    load_model(tmp_path / "parts")
    parts[1].unlink()
    assert f"lacks 1 of the {len(parts)} files that model.safetensors.index.json names: {parts[1].name}" in refusal(
        tmp_path / "parts"
    )
    (tmp_path / "parts" / "model.safetensors.index.json").write_text("{}")
    assert "is no index" in refusal(tmp_path / "parts")


def test_only_the_optimizer_of_a_checkpoint_is_no_model(tiny_model, tmp_path):
    directory = saved(tiny_model(), tmp_path)
    (directory / "model.safetensors").rename(directory / "optimizer.safetensors")
    assert "holds neither model.safetensors nor" in refusal(directory)


@pytest.mark.parametrize(
    "settings",
    [
        {"model_type": "gpt_neox"},
        {"model_type": "no-such-model"},
        {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}},
        {"hidden_size": "wide"},
        {"num_attention_heads": 0},
    ],
)
def test_a_configuration_that_cannot_be_used_is_one_message(tiny_model, tmp_path, settings):
    directory = configure(saved(tiny_model(), tmp_path), **settings)
    assert len(refusal(directory).splitlines()) == 1
    with pytest.raises(ModelError):
        checked_config(directory)
