"""The weights that a vLLM model samples from, under transformers' names and shapes, and their digests.

vLLM keeps several projections in one matrix, pads the vocabulary, and on CPU replaces matrices by a packed copy that
only its kernel can read. A packed matrix is read back by multiplying it with the identity, which is exact: the result
holds the numbers that the next matmul uses, not those of another copy. What tensor parallelism splits is gathered one
parameter at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .shards import Gather, is_split, joined

HEAD = "lm_head"


@dataclass(frozen=True)
class Slot:
    """Rows `first` to `first + shape[0]` of a module's parameter, known to transformers as `name`."""

    name: str
    module: Any
    parameter: str
    first: int
    shape: tuple[int, ...]


def slots(model: nn.Module) -> Iterator[Slot]:
    """Every weight of the model, tied ones once."""
    fused: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    tied = tied_head(model) is not None
    for path, module in model.named_modules():
        place, _, leaf = path.rpartition(".")
        for parameter, tensor in module.named_parameters(recurse=False):
            if tied and path == HEAD and parameter == "weight":
                continue
            rows, rest = _shape(module, parameter, tensor)
            names = fused.get(leaf, [leaf])
            heights = rows if len(names) > 1 else [sum(rows)]
            first = 0
            for name, height in zip(names, heights, strict=True):
                full = ".".join(part for part in (place, name, parameter) if part)
                yield Slot(full, module, parameter, first, (height, *rest))
                first += height


def _shape(module: Any, parameter: str, tensor: Tensor) -> tuple[list[int], tuple[int, ...]]:
    """(rows of each projection in it, the other dimensions); the tensor may have been replaced by a packed one."""
    if hasattr(module, "org_vocab_size"):
        return [module.org_vocab_size], tuple(tensor.shape[1:])
    if hasattr(module, "total_num_kv_heads"):  # its output_sizes count heads that are repeated over ranks
        heads = (module.total_num_heads, module.total_num_kv_heads)
        rows = [heads[0] * module.head_size, heads[1] * module.head_size, heads[1] * module.v_head_size]
    elif hasattr(module, "output_sizes"):
        rows = list(module.output_sizes)
    elif hasattr(module, "output_size"):
        rows = [module.output_size]
    else:
        return [tensor.shape[0]], tuple(tensor.shape[1:])
    return rows, (module.input_size,) if parameter == "weight" else ()


def check_given(given: Mapping[str, tuple[int, ...]], model: nn.Module) -> None:
    """Whether these names and shapes are all weights of the model. Raises KeyError for an unknown name, else
    ValueError."""
    shapes = {slot.name: slot.shape for slot in slots(model)}
    for name, shape in given.items():
        if shapes[name] != shape:
            raise ValueError(f"weight {name} has shape {shape}, vLLM's model has {shapes[name]}")
    if missing := sorted(shapes.keys() - given.keys()):
        raise ValueError(
            f"weights are missing, {len(missing)} in all, the first of them {missing[0]}; give vLLM all weights of "
            "the model at once"
        )


def held_weights(model: nn.Module, gather: Gather | None = None) -> Iterator[tuple[str, Tensor]]:
    """(name, weight) as sampling uses them now. Raises RuntimeError when a tied head differs from the embedding.

    gather: with tensor parallelism; all ranks then take the same weights in the same order.
    """
    for slot, weight in _held_slots(model, gather):
        yield slot.name, weight


def held_digests(
    model: nn.Module,
    read: Mapping[str, tuple[str, str]],
    gather: Gather | None = None,
    *,
    share: tuple[int, int] = (0, 1),
) -> dict[str, str]:
    """Name -> SHA-256 (hex) of what sampling uses now.

    Packed matrices are read back without the signs of zeros. One that equals what was read but for these has the digest
    of that. read: name -> (digest, digest without the signs of zeros) of what was loaded. share: (rank, number of
    ranks); the weights are hashed in turns.
    """
    rank, ranks = share
    digests: dict[str, str] = {}
    for number, (slot, weight) in enumerate(_held_slots(model, gather)):
        if number % ranks != rank:
            continue
        if not _is_packed(slot.module):
            digests[slot.name] = tensor_digest(slot.name, weight)
            continue
        digest = unsigned_digest(slot.name, weight)
        exact, without_signs = read.get(slot.name, ("", ""))
        digests[slot.name] = exact if digest == without_signs else digest
    return digests


def _held_slots(model: nn.Module, gather: Gather | None) -> Iterator[tuple[Slot, Tensor]]:
    check_tied_head(model)
    whole: tuple[int, str, Tensor] | None = None
    for slot in slots(model):
        key = (id(slot.module), slot.parameter)
        if whole is None or whole[:2] != key:
            whole = (*key, _whole(slot.module, slot.parameter, gather))
        yield slot, whole[2][slot.first : slot.first + slot.shape[0]]


def unsigned_digest(name: str, weight: Tensor) -> str:
    """`tensor_digest` without the signs of zeros."""
    ((_, tensor),) = unsigned([(name, weight)])
    return tensor_digest(name, tensor)


def tensor_digest(name: str, weight: Tensor) -> str:
    """SHA-256 (hex) over name, dtype, shape and bytes, as `deepscaler.modeling.weights.tensor_digests`."""
    tensor = weight.detach().contiguous().cpu()
    digest = hashlib.sha256(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode())
    digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def unsigned(weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """Without the signs of zeros, which are lost where a packed matrix is read back by a matmul."""
    for name, weight in weights:
        yield name, weight.detach() + 0.0


def _whole(module: Any, parameter: str, gather: Gather | None) -> Tensor:
    # An embedding is packed as well, but reads the plain matrix; unlike the output layer it has no bias.
    looks_up = hasattr(module, "org_vocab_size") and not hasattr(module, "bias")
    own = matrix(module) if parameter == "weight" and not looks_up else getattr(module, parameter).detach()
    if gather is None or not is_split(module, parameter):
        return own
    return joined(module, gather(own.contiguous()))


def matrix(module: Any) -> Tensor:
    """The matrix of the module, [outputs, inputs]: read through its own kernel where that has a packed copy."""
    if not _is_packed(module):
        return module.weight.detach()
    inputs = getattr(module, "input_size_per_partition", getattr(module, "input_size", None)) or module.embedding_dim
    return module.cpu_linear(torch.eye(inputs, dtype=module.weight.dtype), module.weight, None).t()


def _is_packed(module: Any) -> bool:
    return hasattr(module, "cpu_linear")


def tied_head(model: Any) -> Any:
    """The output layer where it shares the embedding's weight, else None."""
    tied = getattr(getattr(model, "config", None), "tie_word_embeddings", False)
    head = getattr(model, HEAD, None) if tied else None
    return head if hasattr(head, "weight") else None  # without weights on other stages of a pipeline


def check_tied_head(model: nn.Module) -> None:
    """Raises RuntimeError when a tied output layer does not multiply with the embedding.

    vLLM 0.32 leaves the old packed copy in place when weights are loaded anew, and would then sample from a mixture.
    """
    head = tied_head(model)
    if head is None:
        return
    embedding: Any = next(module for module in model.modules() if hasattr(module, "org_vocab_size"))
    if not torch.equal(matrix(head), embedding.weight):
        raise RuntimeError(
            "vLLM's output layer differs from the embedding it is tied to (a stale packed copy), so it would sample "
            "from a mixture of two models; load all weights again, or start the engine anew"
        )


def repack_tied_head(model: nn.Module) -> None:
    """Pack the output layer again from the embedding it is tied to; does nothing where it is not packed."""
    head = tied_head(model)
    if head is not None and _is_packed(head):
        head.quant_method.process_weights_after_loading(head)
