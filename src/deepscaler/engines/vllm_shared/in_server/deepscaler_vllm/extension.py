"""`--worker-extension-cls`: what a worker of a vLLM server does for us, called through `/collective_rpc`.

Arguments and answers are JSON: numbers, texts, lists and dictionaries. An error is an answer {"error": text}, because
vLLM takes an exception here for the death of its engine. vLLM mixes the class into its own, whose attributes it uses:
`model_runner`, `reload_weights`.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from torch.cuda import nccl
from torch.multiprocessing.reductions import rebuild_cuda_tensor

from .held_weights import check_given, held_digests, repack_tied_head, slots, tensor_digest, unsigned_digest
from .sampler import mask_ids, report_untruncated

MANIFEST_FILE = "manifest.json"
PREPARED = "deepscaler_untruncated"  # attribute of the model: what `report_untruncated` returned


class WorkerExtension:
    """Every method begins with `deepscaler_`: vLLM refuses names that its own worker has.

    Of several workers (tensor or pipeline parallelism) each answers for its part: shapes of its stage, digests of some
    of the weights.
    """

    model_runner: Any
    reload_weights: Any
    vllm_config: Any = None

    def deepscaler_prepare(self, forbidden_ids: Sequence[int]) -> dict[str, Any]:
        """Before the first request of a client; the same for every one.

        untruncated: whether log-probabilities are those before top-k and top-p. dtype: of the weights. shapes: of every
        weight by its transformers name, as vLLM built the model. transfer: what vLLM's weight transfer could use.
        is_updating: whether an update of the weights was begun and never finished.
        """
        model = self.model_runner.get_model()
        if not hasattr(model, PREPARED):
            mask_ids(model, forbidden_ids)
            setattr(model, PREPARED, report_untruncated(self.model_runner))
        return {
            "untruncated": getattr(model, PREPARED),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "shapes": {slot.name: list(slot.shape) for slot in slots(model)},
            "transfer": _transfer(getattr(self.vllm_config, "weight_transfer_config", None)),
            "is_updating": bool(getattr(self, "_weight_update_active", False)),
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
            if _num_stages(self.vllm_config) == 1:  # else the caller compares with those of all stages
                check_given(dict(_shapes(path, files)), model)
            changed = True
            read: dict[str, tuple[str, str]] = {}
            self.reload_weights(weights_iterator=_recorded(path, files, read))
            repack_tied_head(model)
            return {"digests": _digests(model, read, self.vllm_config)}
        except Exception as error:  # see the module's docstring
            return {"error": f"{type(error).__name__}: {error}", "changed": changed}

    def deepscaler_digests(self) -> dict[str, Any]:
        """digests: name -> SHA-256 of what the engine holds; in matrices packed for CPU, zeros without their signs."""
        try:
            return {"digests": _digests(self.model_runner.get_model(), {}, self.vllm_config)}
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
                read[name] = (tensor_digest(name, weight), unsigned_digest(name, weight))
                yield name, weight


def _digests(model: Any, read: Mapping[str, tuple[str, str]], config: Any) -> dict[str, str]:
    """Of the weights of this worker's stage; with tensor parallelism, of this rank's share of them."""
    if config is None or config.parallel_config.tensor_parallel_size == 1:
        return held_digests(model, read)
    group = sys.modules["vllm.distributed.parallel_state"].get_tp_group()  # vLLM has made it in this process

    def gather(own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(group.world_size)]
        torch.distributed.all_gather(parts, own, group=group.device_group)
        return parts

    return held_digests(model, read, gather, share=(group.rank_in_group, group.world_size))


def _num_stages(config: Any) -> int:
    return 1 if config is None else config.parallel_config.pipeline_parallel_size


def _transfer(config: Any) -> dict[str, Any]:
    """What decides whether vLLM's weight transfer can be used (engines/vllm_server/transfer_choice.py)."""
    on_gpu = torch.cuda.is_available()
    return {
        "backend": "" if config is None else str(config.backend),
        "gpu": str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if on_gpu else "",
        "unpickles": os.environ.get("VLLM_ALLOW_INSECURE_SERIALIZATION") == "1",
        "handle_arguments": list(inspect.signature(rebuild_cuda_tensor).parameters),
        "nccl": [str(part) for part in nccl.version()] if on_gpu else [],
    }
