"""Which process gets which completions and which samples: shards are complete and even."""

from __future__ import annotations

import numpy as np
import pytest

from deepscaler.cluster.sharding import split_evenly, split_requests
from deepscaler.types import Request

REQUESTS = [Request(f"p{i}", np.arange(4 + i, dtype=np.int32), 5) for i in range(4)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_complete_and_even(count: int) -> None:
    for budget in (1000, 1):  # prompts that are short beside the completions, and long ones
        shares = split_requests(REQUESTS, count, budget)
        keys = [(r.problem_id, r.first_sample_index + i) for part in shares for r in part for i in range(r.num_samples)]
        assert sorted(keys) == [(f"p{i}", j) for i in range(4) for j in range(5)]
        sizes = [sum(r.num_samples for r in share) for share in shares]
        assert max(sizes) - min(sizes) <= 1
    lengths = [9, 4, 12, 7, 3, 10, 5, 8]
    for held in (0, 6, 100):  # by the first process already
        parts = split_evenly(lengths, count, held)
        assert sorted(i for part in parts for i in part) == list(range(8))
        totals = [sum(lengths[i] for i in part) for part in parts]
        totals[0] += held
        assert parts[0] == [] or max(totals) - min(totals) <= max(lengths)


def test_only_long_prompts_stay_with_one_process_and_only_where_each_gets_one() -> None:
    def holders(budget: int, count: int) -> list[int]:
        shares = split_requests(REQUESTS, count, budget)
        return [sum(r.problem_id == f"p{i}" for share in shares for r in share) for i in range(4)]

    assert holders(1000, 2) == [2, 2, 2, 2]
    assert holders(20, 2) == [2, 2, 1, 1]  # prompts of 6 and 7 beside 5 completions of 20: more than a twentieth
    assert holders(1, 2) == [1, 1, 1, 1]
    assert holders(1, 3) == [1, 1, 1, 3]
