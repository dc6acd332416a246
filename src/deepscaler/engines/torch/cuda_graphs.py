"""CUDA graphs of decoding steps: captured at first use, then replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor


class CudaGraphs:
    """One graph per key, all in one memory pool: they never run at the same time, and the result of one is read before
    the next one runs. With a pool each, the activations of some forty sizes would fill a GPU."""

    def __init__(self) -> None:
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._stream = torch.cuda.Stream()
        self._pool: Any = torch.cuda.graph_pool_handle()

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, key: Hashable, step: Callable[[], Tensor]) -> Tensor:
        """The result of `step`, from the graph of `key`. Its inputs must keep the addresses of the first call."""
        if key not in self._graphs:
            self._graphs[key] = self._capture(step)
        graph, result = self._graphs[key]
        graph.replay()
        return result

    def _capture(self, step: Callable[[], Tensor]) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(
            self._stream
        ):  # libraries allocate workspaces at the first call, which a graph cannot capture
            step()
        torch.cuda.current_stream().wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads (of a server) may make calls that are forbidden during a capture.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            result = step()
        return graph, result

    def clear(self) -> None:
        """Delete all graphs and free their memory."""
        torch.cuda.synchronize()
        self._graphs.clear()
        self._pool = torch.cuda.graph_pool_handle()
