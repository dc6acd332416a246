"""Digests of the inputs of a run besides its recipe; a resumed run must have the same inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deepscaler.config import Recipe
from deepscaler.config.import_paths import names_own_code
from deepscaler.data.templates import template_hash
from deepscaler.json_text import canonical_digest, parse_json
from deepscaler.observability.run_directory import read_json
from deepscaler.own_code import own_code_digest
from deepscaler.rewards.manager import RewardManager

# Fields that change when a model is saved and that no computation reads.
_VOLATILE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
CODE = "code of "  # prefix of the names of functions in the record of a checkpoint
_WORDS = {
    "weights": "the base model's weights",
    "config": "the base model's config.json",
    "tokenizer": "the tokenizer",
    "template": "the chat template",
    "stop_ids": "the token ids that end a completion (eos)",
}


@dataclass(frozen=True)
class Inputs:
    """SHA-256 (hex) of each input, and the stop ids themselves. Paths are not part of it.

    code: of functions of the user's, by where the recipe names them, such as `reward part NAME`.
    """

    weights: str
    config: str
    tokenizer: str
    template: str
    stop_ids: tuple[int, ...]
    code: Mapping[str, str] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        values = {name: value for name, value in asdict(self).items() if name != "code"}
        return {**values, "stop_ids": list(self.stop_ids), **{f"{CODE}{name}": sha for name, sha in self.code.items()}}

    def differing(self, stored: Mapping[str, object]) -> list[str]:
        """Names of the fields that differ from the record of a checkpoint."""
        return [name for name, value in self.as_json().items() if stored.get(name) != value]


def inputs_of(
    weights: str, directory: Path, tokenizer: Any, stop_ids: frozenset[int], code: Mapping[str, str]
) -> Inputs:
    """weights: digest of the base model's. directory: its own, whatever it is called. code: of the user's functions."""
    return Inputs(
        weights=weights,
        config=_config_digest(directory),
        tokenizer=_tokenizer_digest(tokenizer),
        template=template_hash(tokenizer),
        stop_ids=tuple(sorted(stop_ids)),
        code=code,
    )


def in_words(names: list[str]) -> str:
    return ", ".join(_WORDS.get(name) or f"the code of {name.removeprefix(CODE)}" for name in names)


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


def code_digests(recipe: Recipe, reward: RewardManager | None) -> dict[str, str]:
    """SHA-256 (hex) of every function of the user's, by where the recipe names it."""
    found = {} if reward is None else {f"reward part {name}": sha for name, sha in reward.digests.items()}
    for key, path in (("algorithm.loss", recipe.algorithm.loss), ("algorithm.advantage", recipe.algorithm.advantage)):
        if names_own_code(path):
            found[key] = own_code_digest(path)
    return found
