"""A GGUF file as a Hugging Face directory, which every process and engine reads: converted once, kept by content.

transformers dequantises the weights; each is then exactly scale * code + minimum of its block, in float32. The
directory is called by the file's SHA-256, as bases are by what made them (docs/decisions/0004).
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from deepscaler.json_text import canonical_digest, parse_json
from deepscaler.modeling.gguf.header import GgufHeader, read_header
from deepscaler.observability.counts import counted
from deepscaler.observability.files import directory_at_once, fingerprint, fsync, storage_fault
from deepscaler.types import RunError

# Its bars write over our lines.
transformers_logging.disable_progress_bar()

KEPT_IN = Path("runs/bases")
RECORD_FILE = "gguf.json"
_FORM = 1  # of the directories written; another number converts again
_NAMED = 3  # names in a message


@dataclass(frozen=True, slots=True)
class GgufSource:
    """Where converted weights come from; in the run record and in gguf.json beside the weights.

    sha256 and num_bytes: of the file. quantisation: see `GgufHeader`. tensor_types: number type -> tensors.
    """

    file: str
    sha256: str
    num_bytes: int
    architecture: str
    name: str | None
    license: str | None
    quantisation: str
    tensor_types: dict[str, int]
    dtype: str


def converted(path: Path) -> Path:
    """The directory in runs/bases with the weights of this GGUF file, made where it is absent.

    Raises ValueError as `convert_gguf`.
    """
    found = fingerprint(path)
    key = canonical_digest([found.sha256, _FORM, version("transformers")])
    directory = KEPT_IN.absolute() / f"gguf-{key[:12]}"  # workers may have another working directory
    if not (directory / RECORD_FILE).is_file():
        print(f"note: converting {path} into {directory}, once", file=sys.stderr, flush=True)
        convert_gguf(path, directory)
    return directory


def source_of(directory: Path) -> GgufSource | None:
    """What a converted directory records of its GGUF file; None for any other directory."""
    record = directory / RECORD_FILE
    try:
        return GgufSource(**parse_json(record.read_text())) if record.is_file() else None
    except (TypeError, ValueError) as error:
        raise ValueError(f"{record} is damaged ({error}); remove {directory} to convert the file again") from error


def convert_gguf(path: Path, directory: Path, dtype: torch.dtype = torch.float32) -> GgufSource:
    """Write configuration, tokenizer and weights of a GGUF file as a Hugging Face directory, at once or not at all.

    dtype: of the weights; float32 holds dequantised values exactly. Raises ValueError for a file that cannot be read
    (`header.read_header`), an architecture or tokenizer that transformers cannot convert, and missing weights.
    """
    header = read_header(path)
    tokenizer, model = _tokenizer(path, header), _model(path, header, dtype)
    found = fingerprint(path)
    source = GgufSource(
        file=str(path.resolve()),
        sha256=found.sha256,
        num_bytes=found.num_bytes,
        architecture=header.architecture,
        name=header.name,
        license=header.license,
        quantisation=header.quantisation,
        tensor_types=header.tensor_types,
        dtype=str(dtype).removeprefix("torch."),
    )
    try:
        with directory_at_once(directory) as beside:
            model.save_pretrained(beside)
            tokenizer.save_pretrained(beside)
            _check_tokenizer(path, header, AutoTokenizer.from_pretrained(beside))
            (beside / RECORD_FILE).write_text(json.dumps(asdict(source), indent=1) + "\n")
            for file in [*beside.iterdir(), beside]:
                fsync(file)
    except Exception as error:
        fault = storage_fault(error)
        if fault is None:
            raise
        raise RunError(
            f"{path} was not converted to {directory}: {fault}; `deepscaler convert {path} --to DIR` writes elsewhere"
        ) from error
    return source


def _tokenizer(path: Path, header: GgufHeader) -> Any:
    with _explained(path, header, "its tokenizer"):
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def _model(path: Path, header: GgufHeader, dtype: torch.dtype) -> Any:
    """A model that `save_pretrained` takes: without the quantisation entry, which marks one read from GGUF."""
    with _explained(path, header, "the model"):
        read: Any = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=dtype, output_loading_info=True
        )
        model, loaded = read
        weights: dict[str, torch.Tensor] = model.state_dict()
        _check_weights(path, weights, loaded)
        content = model.config.to_dict()
        for key in ("quantization_config", "_model_name_or_path"):
            content.pop(key, None)
        config = type(model.config).from_dict(content)
        with torch.device("meta"):
            plain: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        plain.load_state_dict(weights, assign=True)
        plain.tie_weights()
        plain.generation_config = model.generation_config
    return plain


def _check_weights(path: Path, weights: dict[str, torch.Tensor], loaded: dict[str, Any]) -> None:
    """transformers fills a missing tensor with random numbers."""
    absent = sorted(loaded.get("missing_keys", ()))
    if absent:
        raise ValueError(
            f"{counted(len(absent), 'weight')} missing: {', '.join(absent[:_NAMED])}"
            f"{', …' if len(absent) > _NAMED else ''}; the file is not of the whole model"
        )
    packed = [name for name, weight in weights.items() if not weight.is_floating_point()]
    if packed:
        raise ValueError(f"transformers keeps {', '.join(packed[:_NAMED])} quantised instead of dequantising them")


def _check_tokenizer(path: Path, header: GgufHeader, tokenizer: Any) -> None:
    """As it is read again, every id must have the file's token."""
    ids = [i for i in range(len(header.tokens)) if i < len(tokenizer)]
    found = tokenizer.convert_ids_to_tokens(ids)
    other = [i for i in ids if found[i] != header.tokens[i]]
    if other or len(ids) < len(header.tokens):
        first = other[0] if other else len(ids)
        got = found[first] if other else None
        raise ValueError(
            f"the tokenizer of {path} cannot be converted: id {first} is {header.tokens[first]!r} in the file and "
            f"{got!r} after it, as are {counted(len(other) + len(header.tokens) - len(ids), 'token')} in all; take the "
            "original model's Hugging Face directory"
        )


@contextmanager
def _explained(path: Path, header: GgufHeader, what: str) -> Iterator[None]:
    """transformers' refusals as one ValueError; its progress bar is kept from the screen."""
    try:
        with redirect_stderr(io.StringIO()):
            yield
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError, RuntimeError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path} (architecture {header.architecture}, {header.quantisation}): transformers "
            f"{version('transformers')} cannot convert {what}: {why}. Take the original model's Hugging Face directory"
        ) from error
