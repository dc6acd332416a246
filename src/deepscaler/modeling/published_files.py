"""Weights published as files: safetensors with a manifest, read by samplers in other processes and on other machines.

A version is a directory `version-N` of a directory that all workers see. It is written beside and renamed when it is
whole, so a reader never finds half of one. The manifest holds the SHA-256 of every tensor, computed by the writer after
the cast: a sampler that holds other weights is told which.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from deepscaler.json_text import parse_json
from deepscaler.modeling.weights import combined_digest, tensor_digests
from deepscaler.types import RunError

MANIFEST_FILE = "manifest.json"
KEPT_VERSIONS = 2  # a sampler may still be reading the one before the newest
FILE_BYTES = 2**30  # host memory that a writer needs at a time; a tensor is never split


@dataclass(frozen=True, slots=True)
class FileWeights:
    """A handle on one published version. Picklable; tensors are read where they are needed.

    directory: `version-N`. digests: dtype -> tensor name -> SHA-256 (hex), of the file's dtype and of float32.
    """

    version: int
    directory: Path
    dtype: str
    files: tuple[str, ...]
    digests: Mapping[str, Mapping[str, str]]

    @property
    def num_bytes(self) -> int:
        """Of all files together."""
        return sum((self.directory / name).stat().st_size for name in self.files)

    def digest(self, dtype: str) -> str:
        """SHA-256 (hex) of all weights in this dtype. Raises ValueError for one that was not published."""
        return combined_digest(self.tensor_digests(dtype))

    def tensor_digests(self, dtype: str) -> Mapping[str, str]:
        if dtype not in self.digests:
            raise ValueError(
                f"version {self.version} was published in {self.dtype}; an engine that holds {dtype} cannot be "
                "verified against it. Let rollout engine and model.dtype agree"
            )
        return self.digests[dtype]

    def tensors(self, dtype: str) -> Iterator[tuple[str, Tensor]]:
        """Name and weight. Raises RunError where the files are gone, and ValueError for another dtype."""
        self.tensor_digests(dtype)
        if dtype != self.dtype:
            raise ValueError(f"version {self.version} is stored in {self.dtype}, {dtype} was asked for")
        for name in self.files:
            try:
                with safe_open(self.directory / name, framework="pt") as file:
                    for key in file.keys():  # noqa: SIM118
                        yield key, file.get_tensor(key)
            except (OSError, SafetensorError) as error:
                raise RunError(
                    f"{self.directory / name} cannot be read ({error}): weights of version {self.version} were "
                    "published there. Is the directory shared by all machines, and is this version still the newest?"
                ) from error


def write_weights(root: Path, version: int, named: Iterable[tuple[str, Tensor]], dtype: str) -> FileWeights:
    """Publish weights, cast to `dtype`, as `root/version-N`; a version of that number is replaced.

    named: every weight under its transformers name, tied ones once; gathered one at a time, as they are taken.
    """
    wanted = getattr(torch, dtype)
    temporary = root / f".writing-{version}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    digests: dict[str, dict[str, str]] = {name: {} for name in {dtype, "float32"}}
    files: list[str] = []
    held: dict[str, Tensor] = {}

    def flush() -> None:
        files.append(f"weights-{len(files):05d}.safetensors")
        save_file(held, temporary / files[-1])
        held.clear()

    for name, weight in named:
        for each, found in digests.items():
            found |= tensor_digests([(name, weight)], getattr(torch, each))
        cast = weight.detach().to(wanted) if weight.is_floating_point() else weight.detach()
        held[name] = (
            cast.cpu().contiguous().clone() if cast.data_ptr() == weight.data_ptr() else cast.cpu().contiguous()
        )
        if sum(t.nbytes for t in held.values()) >= FILE_BYTES:
            flush()
    if held:
        flush()
    manifest = {"version": version, "dtype": dtype, "files": files, "digests": digests}
    (temporary / MANIFEST_FILE).write_text(json.dumps(manifest) + "\n")
    target = root / f"version-{version}"
    shutil.rmtree(target, ignore_errors=True)
    temporary.rename(target)
    return FileWeights(version, target, dtype, tuple(files), digests)


def read_weights(directory: Path) -> FileWeights:
    """The handle on a published version. Raises RunError where there is no whole one."""
    path = directory / MANIFEST_FILE
    try:
        found: dict[str, Any] = parse_json(path.read_text())
        return FileWeights(found["version"], directory, found["dtype"], tuple(found["files"]), found["digests"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{path}: no published weights ({error}); the directory must be one that all machines share"
        ) from error


def remove_versions(root: Path, keep: int = 0) -> None:
    """Remove all but the newest `keep` versions, and what an interrupted writer left."""
    for path in root.glob(".writing-*"):
        shutil.rmtree(path, ignore_errors=True)
    versions = sorted(root.glob("version-*"), key=lambda path: int(path.name.removeprefix("version-")))
    for path in versions[: len(versions) - keep]:
        shutil.rmtree(path, ignore_errors=True)
