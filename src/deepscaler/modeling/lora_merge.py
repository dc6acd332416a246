"""A checkpoint of adapters as a Hugging Face directory with merged weights, which every engine reads.

Made once and kept by content, as converted GGUF files are.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from deepscaler.json_text import canonical_digest
from deepscaler.modeling.lora import ADAPTER_FILE, CONFIG_FILE, merge
from deepscaler.modeling.weights import weights_digest
from deepscaler.observability.files import directory_at_once, fingerprint
from deepscaler.observability.run_directory import read_json

BASE_FILE = "adapter_base.json"  # beside the adapters: path of the base and digest of its weights
KEPT_IN = Path("runs/bases")
TOKENIZER_FILES = ("tokenizer*", "vocab.*", "merges.txt", "special_tokens_map.json", "*.jinja")


def merged(directory: Path) -> Path:
    """The directory in runs/bases with base and adapters merged, made where it is absent.

    Raises ValueError where the base is not there or is another one than the adapters were trained on.
    """
    recorded = read_json(directory / BASE_FILE) or {}
    adapters = fingerprint(directory / ADAPTER_FILE)
    key = canonical_digest([adapters.sha256, recorded])
    target = KEPT_IN.absolute() / f"lora-{key[:12]}"
    if not (target / "config.json").is_file():
        print(f"note: merging {directory} into {target}, once", file=sys.stderr, flush=True)
        merge_adapters(directory, Path(str(recorded.get("path"))), str(recorded.get("weights_sha256")), target)
    return target


def merge_adapters(directory: Path, base: Path, weights_sha256: str, target: Path) -> None:
    """Write the merged model with the tokenizer of the checkpoint, at once or not at all. float32."""
    if not (base / "config.json").is_file():
        raise ValueError(
            f"{directory} holds adapters (LoRA) of {base}, which is not there; put that model back, or merge them with "
            "PEFT where it is"
        )
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, use_safetensors=True)
    if weights_digest(model.named_parameters()) != weights_sha256:
        raise ValueError(f"{directory} holds adapters (LoRA) of {base}, whose weights have changed since; restore them")
    config = read_json(directory / CONFIG_FILE) or {}
    try:
        factors = load_file(directory / ADAPTER_FILE)
        _merge_in(model, factors, config["lora_alpha"] / config["r"])
    except (SafetensorError, OSError, KeyError) as error:
        raise ValueError(f"{directory} holds no usable adapters: {type(error).__name__}: {error}") from error
    with directory_at_once(target) as beside:
        model.save_pretrained(beside)
        for pattern in TOKENIZER_FILES:
            for file in directory.glob(pattern):
                (beside / file.name).write_bytes(file.read_bytes())


@torch.no_grad()
def _merge_in(model: Any, factors: dict[str, torch.Tensor], scaling: float) -> None:
    weights = dict(model.named_parameters())
    for name in [name for name in factors if name.endswith(".lora_A.weight")]:
        layer = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        second = factors[name.replace(".lora_A.", ".lora_B.")]
        weights[f"{layer}.weight"].copy_(merge(weights[f"{layer}.weight"], factors[name], second, scaling))
