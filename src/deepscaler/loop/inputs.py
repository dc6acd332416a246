"""Digests of the inputs of a run besides its recipe; a resumed run must have the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deepscaler.data.templates import template_hash
from deepscaler.json_text import canonical_digest, parse_json
from deepscaler.observability.run_directory import read_json

# Fields that change when a model is saved and that no computation reads.
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
_WORDS = {
    "weights": "the base model's weights",
    "config": "the base model's config.json",
    "tokenizer": "the tokenizer",
    "template": "the chat template",
    "stop_ids": "the token ids that end a completion (eos)",
}


@dataclass(frozen=True)
class Inputs:
    """SHA-256 (hex) of each input, and the stop ids themselves. Paths are not part of it."""

    weights: str
    config: str
    tokenizer: str
    template: str
    stop_ids: tuple[int, ...]

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "stop_ids": list(self.stop_ids)}

    def differing(self, stored: Mapping[str, object]) -> list[str]:
        """Names of the fields that differ from the record of a checkpoint."""
        return [name for name, value in self.as_json().items() if stored.get(name) != value]


def inputs_of(weights: str, directory: Path, tokenizer: Any, stop_ids: frozenset[int]) -> Inputs:
    """weights: digest of the base model's. directory: its own, whatever it is called."""
    return Inputs(
        weights=weights,
        config=_config_digest(directory),
        tokenizer=_tokenizer_digest(tokenizer),
        template=template_hash(tokenizer),
        stop_ids=tuple(sorted(stop_ids)),
    )


def in_words(names: list[str]) -> str:
    return ", ".join(_WORDS[name] for name in names)


def _config_digest(directory: Path) -> str:
    config = read_json(directory / "config.json") or {}
    return canonical_digest({key: value for key, value in config.items() if key not in _VOLATILE}, default=str)


def _tokenizer_digest(tokenizer: Any) -> str:
    """SHA-256 (hex) of everything that encodes and decodes; padding and truncation are set by each call."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return canonical_digest([sorted(tokenizer.get_vocab().items()), tokenizer.special_tokens_map], default=str)
    rules = parse_json(backend.to_str())
    kept = {key: value for key, value in rules.items() if key not in ("version", "padding", "truncation")}
    return canonical_digest([kept, tokenizer.special_tokens_map], default=str)
