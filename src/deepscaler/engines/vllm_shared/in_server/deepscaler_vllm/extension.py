"""`--worker-extension-cls`: what a worker of a vLLM server does for us, called through `/collective_rpc`.

Arguments and answers are JSON: numbers, texts, lists and dictionaries. An error is an answer {"error": text}, because
vLLM takes an exception here for the death of its engine. vLLM mixes the class into its own, whose attributes it uses:
`model_runner`, `reload_weights`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from .held_weights import check_given, held_weights, repack_tied_head, slots, tensor_digest, unsigned
from .sampler import mask_ids, report_untruncated

MANIFEST_FILE = "manifest.json"
PREPARED = "deepscaler_untruncated"  # attribute of the model: what `report_untruncated` returned


class WorkerExtension:
    """Every method begins with `deepscaler_`: vLLM refuses names that its own worker has."""

    model_runner: Any
    reload_weights: Any

    def deepscaler_prepare(self, forbidden_ids: Sequence[int]) -> dict[str, Any]:
        """Before the first request of a client; the same for every one.

        untruncated: whether log-probabilities are those before top-k and top-p. dtype: of the weights. shapes: of every
        weight by its transformers name, as vLLM built the model.
        """
        model = self.model_runner.get_model()
        if not hasattr(model, PREPARED):
            mask_ids(model, forbidden_ids)
            setattr(model, PREPARED, report_untruncated(self.model_runner))
        return {
            "untruncated": getattr(model, PREPARED),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "shapes": {slot.name: list(slot.shape) for slot in slots(model)},
        }

    def deepscaler_load(self, directory: str) -> dict[str, Any]:
        """Load a published version (modeling/published_files.py) and read back what sampling uses now.

        digests: name -> SHA-256 of what the engine holds. changed: whether a failure left other weights than before.
        """
        path = Path(directory)
        changed = False
        try:
            files = json.loads((path / MANIFEST_FILE).read_text())["files"]
            model = self.model_runner.get_model()
            check_given(dict(_shapes(path, files)), model)
            changed = True
            read: dict[str, tuple[str, str]] = {}
            self.reload_weights(weights_iterator=_recorded(path, files, read))
            repack_tied_head(model)
            return {"digests": _held_digests(model, read)}
        except Exception as error:  # see the module's docstring
            return {"error": f"{type(error).__name__}: {error}", "changed": changed}

    def deepscaler_digests(self) -> dict[str, Any]:
        """digests: name -> SHA-256 of what the engine holds, zeros without their signs."""
        try:
            return {"digests": _held_digests(self.model_runner.get_model(), {})}
        except Exception as error:  # see the module's docstring
            return {"error": f"{type(error).__name__}: {error}", "changed": False}


def _shapes(directory: Path, files: Sequence[str]) -> Iterator[tuple[str, tuple[int, ...]]]:
    for file in files:
        with safe_open(directory / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                yield name, tuple(opened.get_slice(name).get_shape())


def _recorded(directory: Path, files: Sequence[str], read: dict[str, tuple[str, str]]) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the files; notes its digest, and that without the signs of zeros."""
    for file in files:
        with safe_open(directory / file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                weight = opened.get_tensor(name)
                read[name] = (tensor_digest(name, weight), _unsigned_digest(name, weight))
                yield name, weight


def _held_digests(model: Any, read: dict[str, tuple[str, str]]) -> dict[str, str]:
    """A weight that equals what was read but for signs of zeros counts as it."""
    digests: dict[str, str] = {}
    for name, weight in held_weights(model):
        digest = _unsigned_digest(name, weight)
        exact, without_signs = read.get(name, ("", ""))
        digests[name] = exact if digest == without_signs else digest
    return digests


def _unsigned_digest(name: str, weight: Tensor) -> str:
    ((_, tensor),) = unsigned([(name, weight)])
    return tensor_digest(name, tensor)
