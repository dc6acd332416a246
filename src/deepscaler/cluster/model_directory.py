"""A model directory opened for sampling: evaluation and server alike begin here.

Opening reads configuration and tokenizer and checks the names and shapes of the weights; `load` reads the weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from deepscaler.data.prompt_format import PromptFormat
from deepscaler.data.stopping import all_stop_ids
from deepscaler.data.templates import (
    TemplateFingerprint,
    check_template_options,
    decoder,
    encode_problem,
    template_fingerprint,
)
from deepscaler.engines.sizing import DTYPES, max_sequences, pick_device, pick_dtype
from deepscaler.modeling.gguf.conversion import GgufSource, source_of
from deepscaler.modeling.load import (
    ModelError,
    checked_config,
    load_model,
    load_tokenizer,
    resolve_model,
    stop_token_ids,
    unknown_ids,
)
from deepscaler.modeling.positions import model_context
from deepscaler.observability.counts import counted
from deepscaler.types import IntArray, Problem

MODEL_FILES = (
    "*.safetensors",
    "*config.json",
    "tokenizer.*",
    "vocab.*",
    "merges.txt",
    "special_tokens_map.json",
    "*.jinja",
)
TRAINING_FILES = frozenset({"optimizer.safetensors", "reference.safetensors"})  # beside the weights in a checkpoint


@dataclass(frozen=True)
class ModelDirectory:
    """config: transformers' configuration, which fits the weights in the files. dtype: `float32` or `bfloat16`."""

    path: Path
    config: Any
    tokenizer: Any
    device: torch.device
    dtype: str
    prompt_format: PromptFormat = field(default_factory=PromptFormat)

    @property
    def context(self) -> int:
        """Tokens of prompt and completion that the model takes."""
        return model_context(self.config)

    @cached_property
    def gguf(self) -> GgufSource | None:
        """The GGUF file whose dequantised weights these are."""
        return source_of(self.path)

    @cached_property
    def template(self) -> TemplateFingerprint:
        """Raises ValueError for a chat template that cannot be used."""
        return template_fingerprint(self.tokenizer, self.prompt_format.template)

    def prompt_ids(self, problem: Problem) -> IntArray:
        return encode_problem(self.tokenizer, problem, self.prompt_format)

    def stop_ids(self, additional: Sequence[int] = ()) -> frozenset[int]:
        """Every token that ends a completion: by the model's files, its chat template, and `additional` ones."""
        return all_stop_ids(stop_token_ids(self.path, self.tokenizer), self.tokenizer, additional)

    def decoder(self, stop_ids: frozenset[int], stop: Sequence[str] = ()) -> Callable[[Any], str]:
        """Completion ids -> text, without the stop token at the end, and up to the first stop string."""
        return decoder(self.tokenizer, stop_ids, stop)

    def stopping_fingerprint(self) -> dict[str, Any]:
        configured = stop_token_ids(self.path, self.tokenizer)
        return stopping_fingerprint(self.tokenizer, configured, self.config.vocab_size)

    def load(self, longest: int, dtype: torch.dtype | None = None, *, on_meta: bool = False) -> Any:
        """The model with its weights, in `dtype` if given instead of the directory's own. Raises ModelError.

        longest: tokens of the longest sequence that it will see. on_meta: as in `load_model`.
        """
        chosen, tokenizer = dtype or DTYPES[self.dtype], self.tokenizer
        return load_model(
            self.path, dtype=chosen, device=self.device, tokenizer=tokenizer, longest=longest, on_meta=on_meta
        )

    def slots(self, *, capacity: int, most: int) -> int:
        """Sequences of `capacity` tokens decoded at once, at most `most`. Raises ValueError when not even one fits."""
        return max_sequences(self.config, DTYPES[self.dtype], self.device, capacity=capacity, most=most)

    def check_context(self, prompts: Sequence[IntArray], max_completion_tokens: int) -> None:
        """Raises ModelError when the longest prompt and the budget exceed the model's context."""
        context, longest = self.context, max(map(len, prompts))
        if longest + max_completion_tokens > context:
            raise ModelError(
                f"a budget of {counted(max_completion_tokens, 'token')} above the model's context: {self.path} takes "
                f"{counted(context, 'token')}, the longest prompt has {longest}; give --max-tokens "
                f"{max(1, context - longest)} or fewer"
            )

    def sha256(self) -> str:
        """Over names and contents of weights, configuration and tokenizer: everything that shapes a completion."""
        digest = hashlib.sha256()
        names = {p for pattern in MODEL_FILES for p in self.path.glob(pattern)}
        for path in sorted(p for p in names if p.name not in TRAINING_FILES):
            with path.open("rb") as file:
                digest.update(f"{path.name}|{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
        return digest.hexdigest()


def open_model(
    path: str | Path,
    dtype: str,
    revision: str | None = None,
    *,
    prompt_format: PromptFormat | None = None,
    section: str = "data",
) -> ModelDirectory:
    """Open a model directory, a hub id or a GGUF file. dtype: `float32`, `bfloat16` or `auto`. revision: of a hub id.

    prompt_format: of its prompts, by the recipe's `section`.

    Raises ModelError for a directory that cannot be used, one without chat template among them, ValueError for a
    variable that its chat template does not read.
    """
    directory = resolve_model(path, revision)
    config = checked_config(directory)
    tokenizer = load_tokenizer(directory)
    device, prompt_format = pick_device(), prompt_format or PromptFormat()
    check_template_options(
        tokenizer, prompt_format.template, section if section.startswith("--") else f"{section}.template"
    )
    return ModelDirectory(directory, config, tokenizer, device, pick_dtype(dtype, device), prompt_format)


def stopping_fingerprint(tokenizer: Any, configured: frozenset[int], rows: int) -> dict[str, Any]:
    """Stop tokens that only the chat template names, and how many of the head's `rows` are no tokens.

    Empty where there is neither, as it was before either was recorded.
    """
    turn_end, num_forbidden = all_stop_ids((), tokenizer) - configured, len(unknown_ids(tokenizer, rows))
    return {
        **({"turn_end_ids": sorted(turn_end)} if turn_end else {}),
        **({"num_forbidden_ids": num_forbidden} if num_forbidden else {}),
    }


def device_metadata() -> dict[str, str]:
    """The name of the GPU in use; empty on CPU."""
    return {"gpu": torch.cuda.get_device_name()} if pick_device().type == "cuda" else {}
