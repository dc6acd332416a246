"""Loading causal language models and tokenizers from Hugging Face directories or the hub. safetensors only."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.utils import logging as transformers_logging

from deepscaler.modeling.attention import NAME
from deepscaler.modeling.families.registry import has_family
from deepscaler.modeling.generic import accelerated, why_impossible
from deepscaler.modeling.gguf.conversion import converted
from deepscaler.modeling.gguf.header import is_gguf
from deepscaler.modeling.head import forbid_ids
from deepscaler.modeling.lora_merge import BASE_FILE, merged
from deepscaler.modeling.meta_init import build_on_meta, holds_by_name
from deepscaler.modeling.positions import fit_positions
from deepscaler.modeling.weight_check import check_loaded, check_weights
from deepscaler.observability.run_directory import read_json

# Its bars write over our progress line.
transformers_logging.disable_progress_bar()


class ModelError(ValueError):
    """The model directory cannot be used; the message names the place and the remedy."""


def resolve_model(path: str | Path, revision: str | None = None) -> Path:
    """A local directory that holds config.json and safetensors; a hub id is looked up, and fetched with `hub`.

    Of a GGUF file it is the directory with the same weights (`gguf.conversion`), made where it is absent.
    """
    local = Path(path)
    if is_gguf(local):
        return _from_gguf(local)
    if not local.exists() and _looks_like_hub_id(str(path)):
        local = _from_hub(str(path), revision)
    if not local.is_dir():
        raise ModelError(
            f"model directory {path} does not exist; give a Hugging Face directory or a GGUF file, or make one with "
            "`deepscaler sft RECIPE`"
        )
    if (local / "base_model.json").is_file():
        base = (read_json(local / "base_model.json") or {}).get("path", "named in its base_model.json")
        raise ModelError(f"{local} is step 0, so its weights are those of the base model; give that instead: {base}")
    if (local / BASE_FILE).is_file():
        try:
            return merged(local)
        except ValueError as error:
            raise ModelError(str(error)) from error
    if not (local / "config.json").is_file():
        raise ModelError(f"{local} holds no config.json, so it is no Hugging Face model directory")
    if not list(local.glob("*.safetensors")):
        pickled = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth") for p in local.glob(pattern))
        found = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise ModelError(
            f"{local} holds {found}; only safetensors are loaded, because unpickling runs code from the file. "
            "Convert once, in a place you trust, with `model.save_pretrained(DIR)` of transformers >= 5"
        )
    return local


def _from_gguf(path: Path) -> Path:
    try:
        return converted(path)
    except ValueError as error:
        raise ModelError(str(error)) from error


def _looks_like_hub_id(path: str) -> bool:
    return path.count("/") == 1 and not path.startswith((".", "/", "~")) and not path.startswith("runs/")


def _from_hub(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"model {repo_id} is neither a local directory nor available from the hub ({type(error).__name__}); "
            "download it on a machine with network and give the directory"
        ) from error


def load_model(
    path: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    revision: str | None = None,
    tokenizer: Any | None = None,
    longest: int | None = None,
    on_meta: bool = False,
) -> nn.Module:
    """A causal LM whose attention goes through `deepscaler.modeling.attention`, accelerated on CPU. Raises ModelError.

    tokenizer: ids that it has no token for are never sampled and take no probability. longest: tokens of the longest
    sequence that the model will see; without, models whose computation depends on it are refused by the engine.
    on_meta: without weights (meta_init), where a part of them can be read from the files later.
    """
    directory = resolve_model(path, revision)
    config = checked_config(directory)
    try:
        model: Any = _without_weights(directory, config, dtype, torch.device(device)) if on_meta else None
        if model is None:
            model = _checked_model(directory, config, dtype).to(device)
        if longest is not None:
            fit_positions(model, longest)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{directory} cannot be used: {error}") from error
    if tokenizer is not None:
        forbid_ids(model, unknown_ids(tokenizer, model.get_output_embeddings().weight.shape[0]))
    return accelerated(model.eval(), torch.device(device))


def _without_weights(directory: Path, config: Any, dtype: torch.dtype, device: torch.device) -> Any | None:
    """The model on the meta device; None without a family, or where its files hold other names than the model."""
    if not has_family(config):
        return None
    model = build_on_meta(config, dtype, device)
    with suppress(OSError):  # the file is optional
        model.generation_config = GenerationConfig.from_pretrained(directory)
    return model if holds_by_name(directory, model) else None


def _checked_model(directory: Path, config: Any, dtype: torch.dtype) -> Any:
    """The model with the weights in the files. Raises ValueError where these are not all of it (`check_loaded`).

    A model without a family keeps its own attention.
    """
    own: dict[str, str] = {"attn_implementation": NAME} if has_family(config) else {}
    read: Any = AutoModelForCausalLM.from_pretrained(
        directory, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True, **own
    )
    model, found = read
    check_loaded(directory, model, found)
    return model


def read_config(directory: Path) -> Any:
    """The configuration of a model that can be trained and sampled from. Raises ModelError."""
    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        why = " ".join(str(error).split())
        raise ModelError(f"{directory / 'config.json'} cannot be used: {why}") from error
    if why := why_impossible(config):
        raise ModelError(f"{directory}: {why}")
    return config


def checked_config(directory: Path) -> Any:
    """As `read_config`, when the files hold exactly the weights of that model. Raises ModelError."""
    config = read_config(directory)
    try:
        check_weights(directory, config)
    except ValueError as error:
        raise ModelError(str(error)) from error
    return config


def unknown_ids(tokenizer: Any, rows: int) -> list[int]:
    """Ids of the model's head, which has `rows`, for which the tokenizer has no token: they have no text."""
    known = set(tokenizer.get_vocab().values())
    return [i for i in range(rows) if i not in known]


def load_tokenizer(path: str | Path, revision: str | None = None) -> Any:
    """The tokenizer beside a model. Raises ModelError when it has no chat template or no EOS."""
    directory = resolve_model(path, revision)
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory)
    except (OSError, ValueError) as error:
        raise ModelError(f"{directory} holds no usable tokenizer: {error}") from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"the tokenizer in {directory} has no chat template, so prompts cannot be rendered the way the model "
            "expects; put the model's chat_template.jinja into the directory"
        )
    if tokenizer.eos_token_id is None:
        raise ModelError(f"the tokenizer in {directory} names no eos token; completions could never stop")
    return tokenizer


def stop_token_ids(directory: Path, tokenizer: Any) -> frozenset[int]:
    """Ids that end a completion by the model's files: the tokenizer's EOS and those of the generation config.

    `data.stopping.all_stop_ids` adds what the chat template and the settings say.
    """
    try:
        configured = GenerationConfig.from_pretrained(directory)
    except OSError:  # the file is optional; transformers then goes by the model's configuration, as it does on loading
        configured = GenerationConfig.from_model_config(AutoConfig.from_pretrained(directory))
    eos = configured.eos_token_id
    ids = set(eos if isinstance(eos, list) else [] if eos is None else [eos])
    return frozenset({*ids, tokenizer.eos_token_id})
