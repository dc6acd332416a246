"""The weights in a Hugging Face directory: which files hold them, and their names, shapes and number types.

Reads the headers of safetensors files only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from deepscaler.json_text import parse_json


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """dtype: as safetensors calls it, such as `BF16`."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


def weight_files(directory: Path) -> list[Path]:
    """The files that transformers would load, and no other: a checkpoint of a run has more weights beside them.

    Raises ValueError where there are none, or the index names one that is not there.
    """
    whole, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if whole.is_file():
        return [whole]
    if not index.is_file():
        raise ValueError(
            f"{directory} holds neither {whole.name} nor {index.name}; make one with `model.save_pretrained(DIR)`"
        )
    try:
        names = sorted(set(parse_json(index.read_text())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of safetensors files ({error}); download it again") from error
    files = [directory / str(name) for name in names]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise ValueError(
            f"{directory} lacks {len(missing)} of the {len(files)} files that {index.name} names: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}; download the rest"
        )
    return files


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Every weight in the model's files by its name. Raises ValueError as `weight_files`, and for a damaged file."""
    tensors: dict[str, StoredTensor] = {}
    for path in weight_files(directory):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    part = file.get_slice(name)
                    tensors[name] = StoredTensor(path, tuple(part.get_shape()), str(part.get_dtype()))
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{path} is damaged or no safetensors file ({error}); download or save the model again"
            ) from error
    return tensors


def read_tensor(tensors: dict[str, StoredTensor], name: str) -> Tensor:
    with safe_open(tensors[name].file, framework="pt") as file:
        return file.get_tensor(name)


def file_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight in the model's files."""
    return {name: tensor.shape for name, tensor in stored_tensors(directory).items()}
