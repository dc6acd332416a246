"""What a GGUF file says of itself, read before any weight is dequantised (github.com/ggml-org/ggml, docs/gguf.md)."""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepscaler.observability.counts import counted

MAGIC = b"GGUF"
SUFFIX = ".gguf"


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """architecture: as llama.cpp calls it, such as `llama`. tensor_types: how many tensors have each number type.

    tokens: the text of every token, by id.
    """

    architecture: str
    name: str | None
    license: str | None
    tensor_types: dict[str, int]
    tokens: tuple[str, ...]

    @property
    def quantisation(self) -> str:
        """The number type of most tensors other than F32, in which norms are kept; F32 where there is no other."""
        others = {kind: count for kind, count in self.tensor_types.items() if kind != "F32"}
        return max(others, key=lambda kind: others[kind], default="F32")


def is_gguf(path: str | Path) -> bool:
    """Whether the path is a file that is called so or begins so."""
    path = Path(path)
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return path.suffix.lower() == SUFFIX or file.read(len(MAGIC)) == MAGIC


def read_header(path: Path) -> GgufHeader:
    """Raises ValueError for a file that is no GGUF, is truncated, is one part of several, or holds no language model,
    and where the package gguf is missing.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is no GGUF file: it does not begin with the letters GGUF; download it again")
    try:
        from gguf import GGUFReader
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{path} is a GGUF file, and the package gguf that reads it is not installed; add it with "
            "`pip install 'deepscaler[gguf]'` (from a checkout: `pip install -c constraints.txt -e '.[gguf]'`)"
        ) from error
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is damaged or truncated ({counted(path.stat().st_size, 'byte')}; reading its header or tensors "
            f"failed: {error}); download it again and compare the size with the publisher's"
        ) from error
    _check_split(path, reader)
    architecture, tokens = _text(reader, "general.architecture"), reader.fields.get("tokenizer.ggml.tokens")
    if architecture is None or not reader.tensors:
        raise ValueError(f"{path} names no general.architecture or holds no tensors, so it is no language model")
    if tokens is None:
        raise ValueError(
            f"{path} holds no tokenizer (tokenizer.ggml.tokens), so nothing can be encoded; take a file of the whole "
            "model"
        )
    return GgufHeader(
        architecture=architecture,
        name=_text(reader, "general.name"),
        license=_text(reader, "general.license"),
        tensor_types=dict(Counter(tensor.tensor_type.name for tensor in reader.tensors)),
        tokens=tuple(bytes(tokens.parts[i]).decode("utf-8", "replace") for i in tokens.data),
    )


def _check_split(path: Path, reader: Any) -> None:
    field = reader.fields.get("split.count")
    if field is not None and (count := int(field.contents())) > 1:
        raise ValueError(
            f"{path} is one of {count} parts of a model; join them first: `llama-gguf-split --merge FIRST_PART WHOLE`"
        )


def _text(reader: Any, key: str) -> str | None:
    field = reader.fields.get(key)
    return None if field is None else str(field.contents())
