"""A call goes to all ranks at once, and the failure that caused the others is the one that is told."""

from __future__ import annotations

from typing import Any

import pytest

from deepscaler.cluster.rank_group import OwnRank, RankGroup
from deepscaler.protocols import AppliedUpdate
from deepscaler.types import RunError, TokenSums, TrainSample


class AnsweringRank:
    """A remote whose calls are answered by `answer`, once all of `others` were called too."""

    def __init__(self, answer: Any, others: list[str]) -> None:
        self._answer, self._others = answer, others

    def call(self, method: str, *arguments: Any) -> Any:
        self._others.append(method)
        rank = self

        class Answer:
            def ready(self) -> bool:
                return True

            def result(self) -> Any:
                if isinstance(rank._answer, Exception):
                    raise rank._answer
                return rank._answer(*arguments)

        return Answer()

    def stream(self, method: str, *arguments: Any) -> Any:
        raise NotImplementedError

    def close(self) -> None: ...


class Own:
    """Looks, when it runs, whether the others were called before."""

    def __init__(self, called: list[str], answer: Any) -> None:
        self._called, self._answer = called, answer

    def apply(self, learning_rate: float, max_grad_norm: float) -> AppliedUpdate:
        assert self._called == ["apply", "apply"]
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


def group(own: Any, *answers: Any) -> RankGroup:
    called: list[str] = []
    ranks = [AnsweringRank(answer, called) for answer in answers]
    return RankGroup([OwnRank(Own(called, own)), *ranks])


def applied(norm: float) -> AppliedUpdate:
    return AppliedUpdate(norm, 0.1)


def test_the_own_rank_runs_after_the_others_were_called() -> None:
    same = lambda *_: applied(2.0)  # noqa: E731
    assert group(applied(2.0), same, same).apply(0.1, 1.0).grad_norm == 2.0


def test_ranks_that_disagree_on_the_norm_stop_the_run() -> None:
    with pytest.raises(RunError, match=r"ranks disagree .*\(2, nan, 2\)"):
        group(applied(2.0), lambda *_: applied(float("nan")), lambda *_: applied(2.0)).apply(0.1, 1.0)


def test_the_first_cause_is_told_and_not_what_followed_from_it() -> None:
    followed = RuntimeError("gloo: Connection closed by peer [127.0.0.1]:1")
    cause = RunError("learner rank 2 died during apply")
    with pytest.raises(RunError, match=r"^learner rank 2 died during apply$"):
        group(followed, followed, cause).apply(0.1, 1.0)


def test_ranks_that_work_together_get_the_same_samples_and_count_once(make_samples_of: Any) -> None:
    shares: list[list[TrainSample]] = []

    def accumulate(samples: list[TrainSample], old: None, ref: None) -> TokenSums:
        shares.append(samples)
        return TokenSums(num_tokens=sum(len(s.completion_ids) for s in samples))

    ranks = [AnsweringRank(accumulate, []) for _ in range(4)]
    sums = RankGroup(ranks, together=2).accumulate(make_samples_of([3, 4, 5]), None, None)
    assert sums.num_tokens == 12
    assert shares[0] == shares[1] != shares[2] == shares[3]
