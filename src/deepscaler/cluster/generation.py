"""One generation by a group of samplers: who samples what, and what happens when one of them is lost."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from deepscaler.cluster.assignment import Assignment
from deepscaler.cluster.supervised import REMEDY, RepeatedCall, SupervisedRemote
from deepscaler.observability.counts import counted
from deepscaler.protocols import Sampler, Stream
from deepscaler.types import FinishReason, Request, Rollout, RunError, SamplingParams, WeightsInfo, WorkerLost

SHORTEST_PAUSE_S, LONGEST_PAUSE_S = 0.001, 0.02  # between two looks at remote samplers when nothing has arrived


class Member:
    """A remote sampler of a group. It samples only with the weights that its process has reported."""

    def __init__(self, remote: SupervisedRemote) -> None:
        self.remote = remote
        self._loaded_by = remote.num_starts  # the process that holds the group's weights
        self._loading: tuple[RepeatedCall, WeightsInfo] | None = None
        self._is_gone = False

    @property
    def is_gone(self) -> bool:
        """Lost too often: it takes no further part."""
        return self._is_gone

    def drop(self) -> None:
        self._is_gone = True

    def begin_loading(self, load: tuple[str, *tuple[object, ...]] | None, expected: WeightsInfo | None) -> None:
        """load: method and arguments; None where its process needs to be told nothing."""
        if load is None or expected is None:
            self._loaded_by = self.remote.num_starts
        else:
            self._loading = self.remote.call(*load), expected

    def finish_loading(self) -> None:
        """Wait for the weights. Raises RunError when it reports other ones than the group has."""
        if self._loading is not None:
            (reply, expected), self._loading = self._loading, None
            self.loaded(reply.result(), expected)

    def loaded(self, info: WeightsInfo, expected: WeightsInfo) -> None:
        if info != expected:
            raise RunError(
                f"{self.remote.name} reports weights of version {info.version} ({info.dtype} {info.digest[:12]}), the "
                f"group has version {expected.version} ({expected.dtype} {expected.digest[:12]}): it does not see the "
                "weights that were published, so the run stops"
            )
        self._loaded_by, self._loading = self.remote.num_starts, None

    @property
    def is_loading(self) -> bool:
        """Whether it would have to be waited for."""
        return self._loading is not None and not self._loading[0].ready()

    @property
    def holds_weights(self) -> bool:
        """Whether its process of now has reported the group's weights."""
        return self._loading is None and self._loaded_by == self.remote.num_starts

    @property
    def needs_weights(self) -> bool:
        """Its process was started after the weights were published, and was not told of them yet."""
        return self._loading is None and self._loaded_by != self.remote.num_starts


@dataclass(slots=True)
class _Task:
    """What a member does. share: empty while a new process only loads weights. stream: None until it samples."""

    member: Member
    share: list[Request]
    stream: Stream[Rollout] | None = None
    is_cancelled: bool = False


class Generation:
    """tell_weights: begins to load the group's weights into a member. is_interrupted: whether to end early.

    An interrupted generation yields every completion: what had not ended with `FinishReason.CANCELLED`, as it was.
    """

    def __init__(
        self,
        own: Sampler | None,
        members: Sequence[Member],
        assignment: Assignment,
        tell_weights: Callable[[Member], None],
        report: Callable[[str], object],
        is_interrupted: Callable[[], bool] = lambda: False,
    ) -> None:
        self._is_interrupted = is_interrupted
        self._own, self._members, self._assignment = own, members, assignment
        self._tell_weights, self._report = tell_weights, report
        self._own_stream: Iterator[Rollout] | None = None
        self._tasks: list[_Task] = []
        self._queue: deque[list[Request]] = deque()  # shares that nobody has
        self._missing: set[tuple[str, int]] = set()
        self._last_loss = ""

    def run(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        self._params = params
        self._missing = set(_keys(requests))
        members = [m for m in self._members if not m.is_gone]
        count = len(members) + (self._own is not None)
        shares, rest = self._assignment.divide(requests, max(1, count), params.max_completion_tokens)
        self._queue.extend(rest)
        try:
            for member, share in zip(members, shares[count - len(members) :], strict=False):
                self._give(member, share)
            if self._own is not None and shares[0]:
                self._own_stream = self._own.generate(shares[0], params)
            pause = SHORTEST_PAUSE_S
            while self._missing:
                before = len(self._missing)
                yield from self._round()
                pause = SHORTEST_PAUSE_S if len(self._missing) < before else min(2 * pause, LONGEST_PAUSE_S)
                if self._missing and self._own_stream is None:
                    time.sleep(pause)
            for task in self._tasks:
                task.member.remote.works()
        finally:
            self._own_stream = None  # ends it
            for task in self._tasks:
                if task.stream is not None:
                    task.stream.close()

    def _round(self) -> Iterator[Rollout]:
        """What arrives without waiting, but for the own sampler's next completion."""
        if self._is_interrupted():
            yield from self._interrupt()
        if self._missing:
            self._hand_out()
        if self._own_stream is not None:
            rollout = next(self._own_stream, None)
            if rollout is None:
                self._own_stream = None
            elif self._is_first(rollout):
                yield rollout
        for task in list(self._tasks):
            for rollout in self._arrived(task):
                if self._is_first(rollout):
                    yield rollout

    def _interrupt(self) -> Iterator[Rollout]:
        """Let those who sample end early, and yield what nobody has begun."""
        for task in list(self._tasks):
            if task.stream is None:
                self._queue.append(self._rest_of(task.share))
                task.share = []
            elif not task.is_cancelled:
                task.is_cancelled = True
                try:
                    task.stream.cancel()
                except WorkerLost as lost:
                    self._replace(task, lost)
        for share in self._queue:
            for request in self._rest_of(share):
                for rollout in _not_begun(request):
                    if self._is_first(rollout):
                        yield rollout
        self._queue.clear()

    def _arrived(self, task: _Task) -> Iterator[Rollout]:
        try:
            self._start(task)
            while task.stream is not None and task.stream.ready():
                try:
                    yield next(task.stream)
                except StopIteration:
                    self._finish(task)
                    return
        except WorkerLost as lost:
            self._replace(task, lost)

    def _give(self, member: Member, share: list[Request]) -> None:
        if not share:
            return
        task = _Task(member, share)
        self._tasks.append(task)
        try:
            self._start(task)
        except WorkerLost as lost:
            self._replace(task, lost)

    def _start(self, task: _Task) -> None:
        """Begin to sample, if the weights are there. A task that has nothing to sample ends with that."""
        member = task.member
        if task.stream is not None:
            return
        if member.needs_weights:
            self._tell_weights(member)
        if member.is_loading:
            return
        member.finish_loading()
        if task.share:
            task.stream = member.remote.stream("generate", task.share, self._params)
        else:
            self._tasks.remove(task)

    def _finish(self, task: _Task) -> None:
        task.member.remote.works()
        self._tasks.remove(task)
        if left := [key for key in _keys(task.share) if key in self._missing]:
            raise RunError(
                f"{task.member.remote.name} ended its generation without {counted(len(left), 'completion')}, the first "
                f"is number {left[0][1]} of problem {left[0][0]}; the run stops"
            )

    def _replace(self, task: _Task, lost: WorkerLost) -> None:
        """Start the member's process again; its share is sampled again as a whole, or its rest by an idle sampler."""
        self._tasks.remove(task)
        try:
            task.member.remote.restart(lost)
        except WorkerLost as final:
            task.member.drop()
            self._last_loss = str(final)
            self._report(f"{final}; it takes no further part")
            self._queue.appendleft(self._rest_of(task.share))
            return
        keep = task.share if self._assignment.exact else []
        if not keep:
            self._queue.appendleft(self._rest_of(task.share))
        self._tasks.append(_Task(task.member, keep))

    def _rest_of(self, share: Sequence[Request]) -> list[Request]:
        """Requests for what is missing of a share, one for every gapless range of sample indices."""
        rest: list[Request] = []
        for request in share:
            for name, index in _keys([request]):
                if (name, index) not in self._missing:
                    continue
                last = rest[-1] if rest else None
                follows = last is not None and last.problem_id == name and _end(last) == index
                if last is not None and follows and request.begun is None and last.begun is None:
                    rest[-1] = replace(last, num_samples=last.num_samples + 1)
                else:
                    rest.append(replace(request, first_sample_index=index, num_samples=1))
        return rest

    def _hand_out(self) -> None:
        """Assign open shares to idle samplers. Raises RunError where no sampler is left."""
        self._queue = deque(share for share in self._queue if share)
        busy = {id(task.member) for task in self._tasks}
        free = [m for m in self._members if not m.is_gone and id(m) not in busy]
        if self._queue and self._own is not None and self._own_stream is None:
            self._own_stream = self._own.generate(self._queue.popleft(), self._params)
        while self._queue and free:
            self._give(free.pop(0), self._queue.popleft())
        if not self._tasks and self._own_stream is None:
            left = counted(len(self._missing), "completion")
            why = f"no sampler is left: {self._last_loss}\n{REMEDY}" if self._last_loss else "the sampler ended early"
            raise RunError(f"{left} cannot be sampled: {why}")

    def _is_first(self, rollout: Rollout) -> bool:
        """Whether nobody has sampled it before; it counts as sampled then."""
        key = rollout.problem_id, rollout.sample_index
        if key not in self._missing:
            return False
        self._missing.remove(key)
        if rollout.finish_reason is not FinishReason.CANCELLED:
            self._assignment.note(rollout)
        return True


def _keys(requests: Sequence[Request]) -> list[tuple[str, int]]:
    """Problem and sample index of every completion."""
    return [(r.problem_id, index) for r in requests for index in range(r.first_sample_index, _end(r))]


def _not_begun(request: Request) -> Iterator[Rollout]:
    """The completions of a request that nobody has sampled from, as far as they were begun before."""
    if request.begun is not None:
        yield replace(request.begun, finish_reason=FinishReason.CANCELLED)
        return
    nothing = np.empty(0, np.int32), np.empty(0, np.float32)
    for index in range(request.first_sample_index, _end(request)):
        yield Rollout(request.problem_id, index, request.prompt_ids, *nothing, FinishReason.CANCELLED, policy_version=0)


def _end(request: Request) -> int:
    return request.first_sample_index + request.num_samples
