"""Muon's matrices orthogonalised by all processes that share the weights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor

from deepscaler.cluster.helper import Helper, views_of
from deepscaler.cluster.replica import GradientHelper, in_order
from deepscaler.cluster.sharding import split_evenly
from deepscaler.toy.muon import Orthogonalise, orthogonalise_all, orthogonalise_cost

Shape = tuple[int, ...]


class MuonHelper(Helper):
    """A helper that also orthogonalises matrices, in the memory of its gradient: never more than there are weights."""

    def orthogonalise(self, shapes: Sequence[Shape]) -> None:
        """The matrices are in `lent` one after the other, float32, and are replaced there."""
        lent = views_of(self._lent, shapes)
        for matrix, result in zip(lent, orthogonalise_all(lent), strict=True):
            matrix.copy_(result)


def shared_orthogonalise(helpers: Sequence[GradientHelper]) -> Orthogonalise:
    """`orthogonalise_all`, divided among this process and the helpers, which hold a `MuonHelper`."""
    return partial(_orthogonalise, helpers)


def _orthogonalise(helpers: Sequence[GradientHelper], matrices: Sequence[Tensor]) -> list[Tensor]:
    """A matrix comes out the same whichever process has it."""
    shards = split_evenly([orthogonalise_cost(m) for m in matrices], 1 + len(helpers))
    lent, replies = [], []
    for helper, shard in zip(helpers, shards[1:], strict=True):
        shapes = [tuple(matrices[i].shape) for i in shard]
        views = views_of(helper.lent, shapes)
        for view, i in zip(views, shard, strict=True):
            view.copy_(matrices[i])
        lent.append(views)
        replies.append(helper.remote.call("orthogonalise", shapes))
    parts = [orthogonalise_all([matrices[i] for i in shards[0]])]
    for views, reply in zip(lent, replies, strict=True):
        reply.result()
        parts.append(views)
    return in_order(shards, parts)
