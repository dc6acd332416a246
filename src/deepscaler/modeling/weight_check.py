"""Whether a directory's files hold the weights of the model that its config.json describes, before any is loaded.

transformers initialises missing tensors with random numbers and ignores surplus ones, with a warning at most.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

from deepscaler.modeling.attention import NAME
from deepscaler.modeling.families.registry import has_family
from deepscaler.modeling.files import StoredTensor, read_tensor, stored_tensors

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
PLAIN_DTYPES = frozenset({"F64", "F32", "F16", "BF16"})
COMPUTED = ".rotary_emb.inv_freq"  # stored by old releases of transformers, and computed by every one
NAMED = 4  # names in a message
_FOUND = ("missing", "unexpected", "mismatched")  # in the loading info of transformers


def check_weights(directory: Path, config: Any) -> None:
    """Raises ValueError with everything that is wrong: no file, a damaged one, quantised, missing, surplus, misshapen.

    Only a head that the configuration ties to the embedding may be absent.
    """
    _refuse_adapters(directory)
    _refuse_quantised(directory, getattr(config, "quantization_config", None))
    if not has_family(config) or get_checkpoint_conversion_mapping(config.model_type):
        _check_generic(directory, _without_weights(directory, config))
        return
    expected = expected_shapes(directory, config)
    tensors = {_full_name(name, expected): tensor for name, tensor in stored_tensors(directory).items()}
    tied = bool(config.tie_word_embeddings)
    _refuse_difference(directory, expected, tensors, {HEAD} if tied else set())
    _refuse_codes(directory, tensors)
    if tied and HEAD in tensors:
        _refuse_second_head(directory, tensors)


def _check_generic(directory: Path, model: Any) -> None:
    """Of a model without a family only what is missing or misshapen: its class may ignore some names.

    Where transformers stores a model under other names than it computes with, loading shows the difference.
    """
    stored = stored_tensors(directory)
    _refuse_codes(directory, stored)
    if get_checkpoint_conversion_mapping(model.config.model_type):
        return
    expected, prefix = _shapes(model), f"{model.base_model_prefix}."
    tensors = {f"{prefix}{name}" if f"{prefix}{name}" in expected else name: each for name, each in stored.items()}
    known = {name: tensor for name, tensor in tensors.items() if name in expected}
    tied: set[str] = set(model._tied_weights_keys or ()) if model.config.tie_word_embeddings else set()
    _refuse_difference(directory, expected, known, tied)


def check_loaded(directory: Path, model: Any, found: Mapping[str, Any]) -> None:
    """Raises ValueError where transformers filled weights with random numbers, or left out some of the files.

    found: the loading info of `from_pretrained`. Also for a model whose head is no module of its own.
    """
    missing, surplus, other = (sorted(map(str, found.get(f"{kind}_keys", ()))) for kind in _FOUND)
    parts = [
        f"{len(names)} {what}: {_listed(names)}"
        for names, what in (
            (missing, "missing"),
            (surplus, "that the model does not have"),
            (other, "of another shape"),
        )
        if names
    ]
    if parts:
        raise ValueError(
            f"{directory}: the weights are not those of config.json ({'; '.join(parts)}). Nothing is made up in their "
            f"place; {_remedy(missing, surplus)}"
        )
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"{directory}: model_type {model.config.model_type!r} has no vocabulary head of its own "
            "(get_output_embeddings), by which log-probabilities are computed; take another model"
        )


def expected_shapes(directory: Path, config: Any) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight of the model, without making one."""
    return _shapes(_without_weights(directory, config))


def _shapes(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _without_weights(directory: Path, config: Any) -> Any:
    """The model on no device. Raises ValueError where none can be built."""
    own: dict[str, str] = {"attn_implementation": NAME} if has_family(config) else {}
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, **own)
    except (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError, RuntimeError) as error:
        raise ValueError(
            f"no model can be built from {directory / 'config.json'} ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); take the file that belongs to the weights"
        ) from error


def _full_name(name: str, expected: Collection[str]) -> str:
    """transformers also reads what the model without its head was saved as."""
    return f"model.{name}" if name not in expected and f"model.{name}" in expected else name


def _refuse_adapters(directory: Path) -> None:
    if (directory / "adapter_config.json").is_file():
        raise ValueError(
            f"{directory} holds an adapter (adapter_config.json), and transformers would take its base from elsewhere; "
            "merge it into the base (`merge_and_unload()` of peft) and give the directory it was saved to; if the "
            "weights here are merged already, remove adapter_config.json"
        )


def _refuse_quantised(directory: Path, settings: Any) -> None:
    if settings is None:
        return
    given = settings if isinstance(settings, dict) else settings.to_dict()
    raise ValueError(
        f"{directory} is quantised ({given.get('quant_method', 'see quantization_config in its config.json')}); "
        "training, evaluation and serving need plain weights in float32, bfloat16 or float16: take the base it was "
        "quantised from"
    )


def _refuse_codes(directory: Path, tensors: dict[str, StoredTensor]) -> None:
    codes = {name: t.dtype for name, t in tensors.items() if t.dtype not in PLAIN_DTYPES}
    if codes:
        raise ValueError(
            f"{directory} stores {_listed(codes)} as {'/'.join(sorted(set(codes.values())))}: quantised, or no "
            "weights; take the model in float32, bfloat16 or float16"
        )


def _refuse_difference(
    directory: Path, expected: dict[str, tuple[int, ...]], tensors: dict[str, StoredTensor], optional: set[str]
) -> None:
    missing = [name for name in expected if name not in tensors and name not in optional]
    surplus = [name for name in tensors if name not in expected and not name.endswith(COMPUTED)]
    other = [name for name in expected if name in tensors and tensors[name].shape != expected[name]]
    found = []
    if missing:
        found.append(f"{len(missing)} missing: {_listed(missing)}")
    if surplus:
        found.append(f"{len(surplus)} that the model does not have: {_listed(surplus)}")
    if other:
        shapes = [f"{name} is {_sizes(tensors[name].shape)} instead of {_sizes(expected[name])}" for name in other]
        found.append(f"{len(other)} of another shape: {_listed(shapes)}")
    if found:
        raise ValueError(
            f"{directory}: the weights are not those of config.json ({'; '.join(found)}). Nothing is made up in their "
            f"place; {_remedy(missing, surplus)}"
        )


def _remedy(missing: list[str], surplus: list[str]) -> str:
    prefixes = {name.removesuffix(wanted) for wanted in missing[:NAMED] for name in surplus if name.endswith(wanted)}
    if any("lora_" in name or ".base_layer." in name for name in surplus):
        return "merge the adapter first (`merge_and_unload()` of peft), and give the directory it was saved to"
    if len(prefixes) == 1:
        return (
            f"the names begin with {prefixes.pop()!r}, so a wrapper was saved instead of the model inside: save that "
            "one (`save_pretrained`; with peft, after `merge_and_unload()`)"
        )
    return "put the config.json and all the weights of one model into the directory"


def _refuse_second_head(directory: Path, tensors: dict[str, StoredTensor]) -> None:
    if not torch.equal(read_tensor(tensors, EMBEDDING), read_tensor(tensors, HEAD)):
        raise ValueError(
            f"{directory}: config.json ties the head to the embedding (tie_word_embeddings), and the files hold "
            f"another {HEAD}: two models to choose from, and programs choose differently. If the head was trained by "
            'itself, set "tie_word_embeddings": false in config.json; if it is a leftover, remove it from the file'
        )


def _listed(names: Collection[str]) -> str:
    return ", ".join([*list(names)[:NAMED], *(["…"] if len(names) > NAMED else [])])


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
