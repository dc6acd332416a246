"""Decoding step on a GPU: static shapes, so that a whole step, sampling included, can be one CUDA graph.

Rows and blocks are padded to a few sizes; each combination of sizes is captured once and then replayed. A step makes
one copy to the device and reads one result. On CPU the same code runs without graphs, which is how it is tested there.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deepscaler.engines.torch.cuda_graphs import CudaGraphs
from deepscaler.engines.torch.decode_state import DecodeState, check_rows, sample_rows
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.flash_attention import FlashInputs
from deepscaler.engines.torch.kv_cache import KVCache
from deepscaler.engines.torch.paged_attention import PagedInputs, Sizes
from deepscaler.engines.torch.paged_cache import FlashCache, PagedCache
from deepscaler.engines.torch.sampling import draw
from deepscaler.types import SamplingParams

Inputs = PagedInputs | FlashInputs


class CudaGraphStep:
    """One token for every row, by a captured graph where the device supports them."""

    def __init__(self, decoder: Decoder, cache: KVCache) -> None:
        assert isinstance(cache, PagedCache)
        self._decoder, self._cache = decoder, cache
        self._inputs_type: type[Inputs] = FlashInputs if isinstance(cache, FlashCache) else PagedInputs
        self._inputs: dict[Sizes, Inputs] = {}
        self._graphs = CudaGraphs() if cache.device.type == "cuda" and decoder.can_be_captured else None
        self._last_sizes: Sizes | None = None
        self._addresses: tuple[int, ...] = ()

    def run(self, state: DecodeState, changed: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The next token and its logprob for each row. `changed`: block tables differ from those of the last step.

        Raises NonFiniteLogitsError.
        """
        self._check_addresses()
        if changed:
            self._cache.compact(state)
        sizes = self._inputs_type.sizes(state, self._cache)
        if sizes not in self._inputs:
            self._inputs[sizes] = self._inputs_type(sizes, self._cache.device)
        inputs = self._inputs[sizes]
        inputs.fill(state, self._cache, changed or sizes != self._last_sizes)
        self._last_sizes = sizes
        groups = state.sampling_groups()
        if len(groups) > 1:  # only in a server; sampled group by group, outside of a graph
            return sample_rows(self._logits(inputs)[: len(state)], state, first=0)
        params = groups[0][0]
        key = (sizes, params.temperature, params.top_k, params.top_p)
        drawn_2N = self._draw(inputs, params) if self._graphs is None else self._replay(key, inputs, params)
        tokens_N, logprobs_N = drawn_2N[:, : len(state)].cpu()
        logprobs = logprobs_N.float().numpy()
        check_rows(logprobs, state)
        return tokens_N.long().numpy(), logprobs

    def clear(self) -> None:
        """Free the graphs and inputs, which hold addresses of the cache."""
        self._inputs.clear()
        self._last_sizes = None
        if self._graphs is not None:
            self._graphs.clear()

    def _check_addresses(self) -> None:
        """Free graphs and inputs when the cache or copies of weights have moved: they hold the old addresses."""
        cache = self._cache
        addresses = (cache.block_tokens, *(t.data_ptr() for t in (*cache.keys, *cache.values)))
        if self._graphs is not None:
            addresses += self._decoder.addresses
        if addresses != self._addresses:
            self.clear()
            self._addresses = addresses

    def _replay(self, key: tuple[Sizes, float, int, float], inputs: Inputs, params: SamplingParams) -> Tensor:
        assert self._graphs is not None
        return self._graphs.run(key, lambda: self._draw(inputs, params))

    def _logits(self, inputs: Inputs) -> Tensor:
        return self._decoder.logits(inputs.token_N, inputs.position_N, inputs.attention(self._cache))

    def _draw(self, inputs: Inputs, params: SamplingParams) -> Tensor:
        """Tokens and their logprobs as float64 [2,N], which represents both exactly, to be read in one copy."""
        tokens_N, logprobs_N = draw(self._logits(inputs), inputs.uniform_N.float(), params)
        return torch.stack([tokens_N.double(), logprobs_N.double()])
