"""CUDA graphs of decoding steps: captured at first use, replayed from then on."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


class Graphs:
    """One graph per key, all in one pool of memory: they never run at the same time, and what one leaves is read
    before the next one runs. With a pool each, the intermediates of some forty sizes would fill a GPU."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._stream = torch.cuda.Stream()
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, step: Callable[[], Tensor]) -> Tensor:
        """What `step` returns, by the graph of `key`. All it reads must lie where it lay at the first call."""
        if key not in self._graphs:
            self._graphs[key] = self._capture(step)
        graph, result = self._graphs[key]
        graph.replay()
        return result

    def _capture(self, step: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):  # libraries set themselves up in the first call, which no graph can hold
            step()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Only this thread is watched for calls that a capture forbids: others, of a server, may go on.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = step()
        return graph, result

    def clear(self) -> None:
        """Forget all graphs and free their memory."""
        torch.cuda.synchronize()
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()
