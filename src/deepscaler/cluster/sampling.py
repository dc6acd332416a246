"""A sampler made of samplers: an engine in this process and engines in helper processes that share its weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deepscaler.cluster.sharding import split_requests
from deepscaler.protocols import PublishedWeights, Remote, Sampler, Stream
from deepscaler.types import Request, Rollout, RunError, SamplingParams, WeightsInfo


class ShardedSampler:
    """Every helper samples its part of each group. The weights are in memory that all processes share.

    helpers: remote `cluster.helper.Helper`s; whoever started them ends them.
    """

    def __init__(self, own: Sampler, helpers: Sequence[Remote]) -> None:
        self._own, self._helpers = own, list(helpers)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Rollouts come as they finish, in any order. Which process samples which is a function of the requests."""
        shards = split_requests(requests, 1 + len(self._helpers), params.max_completion_tokens)
        streams: list[Stream[Rollout]] = [
            helper.stream("generate", shard, params) for helper, shard in zip(self._helpers, shards[1:], strict=True)
        ]
        try:
            for rollout in self._own.generate(shards[0], params):
                yield rollout
                for stream in streams:
                    yield from _arrived(stream)
            for stream in streams:
                yield from stream
        finally:
            for stream in streams:
                stream.close()

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """Every process reads back what it samples from, all at once. Raises RunError when one sees other weights."""
        replies = [helper.call("read_weights", weights.version) for helper in self._helpers]
        held = self._own.load_weights(weights)
        for reply in replies:
            if reply.result() != held:
                raise RunError(f"a worker process does not see the weights of version {held.version}; the run stops")
        return held

    def release_memory(self) -> None:
        self._own.release_memory()

    def close(self) -> None:
        self._own.close()


def _arrived(stream: Stream[Rollout]) -> Iterator[Rollout]:
    """What is there without waiting."""
    while stream.ready():
        try:
            yield next(stream)
        except StopIteration:
            return
