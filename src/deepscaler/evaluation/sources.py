"""Completions that an engine in this process makes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

from deepscaler.data.requests import Encode, SampleQuery, make_requests
from deepscaler.evaluation.completions import Completion, Key, Plan
from deepscaler.protocols import Sampler
from deepscaler.types import IntArray, Rollout, SamplingParams


class EngineSource:
    """Completions of a sampler. `encode`: a problem's prompt ids; `decode`: completion ids -> the text to grade."""

    def __init__(
        self,
        sampler: Sampler,
        params: SamplingParams,
        *,
        encode: Encode,
        decode: Callable[[IntArray], str],
    ) -> None:
        self._sampler, self._params = sampler, params
        self._encode, self._decode = encode, decode

    def complete(self, plan: Plan, wanted: Sequence[Key]) -> Generator[Completion, None, None]:
        """Hardest problems first, so that the engine stays full and the tail short."""
        # Draws are keyed by the problem's id; two benchmarks that hold the same problem must not share a key.
        unique = len({problem_id for _, problem_id in plan.problems}) == len(plan.problems)
        names = {(place[1] if unique else "/".join(place)): place for place in plan.problems}
        ids = {place: name for name, place in names.items()}
        indices: dict[tuple[str, str], list[int]] = {}
        for key in wanted:
            indices.setdefault((key.benchmark, key.problem_id), []).append(key.sample_index)
        hardest_first = sorted(indices, key=lambda place: -(plan.problems[place].difficulty or 0.0))
        queries = [SampleQuery(ids[place], plan.problems[place], indices[place]) for place in hardest_first]
        for rollout in self._sampler.generate(make_requests(queries, self._encode), self._params):
            yield self._completion(Key(*names[rollout.problem_id], rollout.sample_index), rollout)

    def _completion(self, key: Key, rollout: Rollout) -> Completion:
        ids = rollout.completion_ids
        return Completion(
            key=key,
            text=self._decode(ids),
            token_ids=tuple(ids.tolist()),
            num_tokens=rollout.num_tokens,
            finish_reason=rollout.finish_reason,
            seed=self._params.seed,
            latency_s=None,
        )

    def warnings(self) -> list[str]:
        return []

    @property
    def metadata(self) -> dict[str, object]:
        return {}
