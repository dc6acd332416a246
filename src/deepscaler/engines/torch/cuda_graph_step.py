"""The decoding step for a GPU: static shapes, so that a whole step, sampling included, can be one CUDA graph.

Rows and blocks are padded to a few sizes; each combination is captured once and replayed from then on. A step moves one
piece of host memory to the device and reads one result. On CPU the same code runs without graphs, for its tests.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.engines.torch.cuda_graphs import Graphs
from deepscaler.engines.torch.decode_state import Rows, check_rows, draw_rows
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.flash_attention import FlashInputs
from deepscaler.engines.torch.kv_cache import BlockCache
from deepscaler.engines.torch.paged_attention import PoolInputs, Sizes
from deepscaler.engines.torch.paged_cache import FlashCache, PoolCache
from deepscaler.engines.torch.sampling import draw
from deepscaler.types import SamplingParams

Inputs = PoolInputs | FlashInputs


class PoolStep:
    """One token for every row, from a captured graph where the device has them."""

    def __init__(self, decoder: Decoder, cache: BlockCache) -> None:
        assert isinstance(cache, PoolCache)
        self._decoder, self._cache = decoder, cache
        self._kind: type[Inputs] = FlashInputs if isinstance(cache, FlashCache) else PoolInputs
        self._inputs: dict[Sizes, Inputs] = {}
        self._graphs = Graphs() if cache.device.type == "cuda" else None
        self._last: Sizes | None = None
        self._addresses: tuple[int, ...] = ()

    def run(self, rows: Rows, changed: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token and its logprob for each row. `changed`: their blocks are others than in the last step.

        Raises NonFiniteLogitsError.
        """
        self._check_addresses()
        if changed:
            self._cache.close_gaps(rows)
        sizes = self._kind.sizes(rows, self._cache)
        if sizes not in self._inputs:
            self._inputs[sizes] = self._kind(sizes, self._cache.device)
        inputs = self._inputs[sizes]
        inputs.fill(rows, self._cache, changed or sizes != self._last)
        self._last = sizes
        alike = rows.alike()
        if len(alike) > 1:  # a mixture, as only a server has it, is drawn group by group
            return draw_rows(self._logits(inputs)[: len(rows)], rows, first=0)
        params = alike[0][0]
        key = (sizes, params.temperature, params.top_k, params.top_p)
        drawn_2N = self._draw(inputs, params) if self._graphs is None else self._replay(key, inputs, params)
        tokens_N, logprobs_N = drawn_2N[:, : len(rows)].cpu()
        logprobs = logprobs_N.float().numpy()
        check_rows(logprobs, rows)
        return tokens_N.long().numpy(), logprobs

    def forget(self) -> None:
        """Free everything that was made for the cache where it lies now."""
        self._inputs.clear()
        self._last = None
        if self._graphs is not None:
            self._graphs.clear()

    def _check_addresses(self) -> None:
        """Start anew when the cache or copies of weights have moved: graphs and inputs know where they were."""
        cache = self._cache
        addresses = (cache.block_tokens, *(t.data_ptr() for t in (*cache.keys, *cache.values)))
        if self._graphs is not None:
            addresses += self._decoder.addresses
        if addresses != self._addresses:
            self.forget()
            self._addresses = addresses

    def _replay(self, key: tuple[Sizes, float, int, float], inputs: Inputs, params: SamplingParams) -> Tensor:
        assert self._graphs is not None
        return self._graphs.run(key, lambda: self._draw(inputs, params))

    def _logits(self, inputs: Inputs) -> Tensor:
        return self._decoder.logits(inputs.token_N, inputs.position_N, inputs.attention(self._cache))

    def _draw(self, inputs: Inputs, params: SamplingParams) -> Tensor:
        """Tokens and their logprobs, float64 [2,N], which holds both exactly: they are read in one copy."""
        tokens_N, logprobs_N = draw(self._logits(inputs), inputs.uniform_N.float(), params)
        return torch.stack([tokens_N.double(), logprobs_N.double()])
