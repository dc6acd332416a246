"""A sampler made of samplers: one in this process if there is one, and remote ones, which are replaced when lost."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

from deepscaler.cluster.assignment import Assignment, FixedAssignment
from deepscaler.cluster.generation import Generation, Member
from deepscaler.cluster.supervised import REMEDY, SupervisedRemote
from deepscaler.protocols import PublishedWeights, Sampler, Stream
from deepscaler.types import Request, Rollout, RunError, SamplingParams, WeightsInfo, WorkerLost

LoadCall = Callable[[PublishedWeights], tuple[str, *tuple[object, ...]]]


def load_by_handle(weights: PublishedWeights) -> tuple[str, *tuple[object, ...]]:
    """The remote object is a `Sampler`, and the handle can be sent to it."""
    return "load_weights", weights


class SamplerGroup:
    """Every (problem, sample index) is yielded once, whatever happens to remote samplers meanwhile.

    A sampler that is lost is started again, loads the newest published weights, and samples only when it reports the
    weights that the others reported. What it had not sampled is sampled by others, or all of its share again by itself
    where the assignment is exact.

    remotes: the caller closes them. load_call: method and arguments by which a remote one takes over weights;
    it returns a WeightsInfo. shares_devices: whether remote samplers release memory for the learner, as the own one.
    """

    def __init__(
        self,
        own: Sampler | None,
        remotes: Sequence[SupervisedRemote],
        *,
        assignment: Assignment | None = None,
        load_call: LoadCall = load_by_handle,
        shares_devices: bool = False,
        report: Callable[[str], object] = lambda text: None,
    ) -> None:
        assert own is not None or remotes
        self._own, self._assignment = own, assignment or FixedAssignment()
        self._members = [Member(remote) for remote in remotes]
        self._load_call, self._shares_devices, self._report = load_call, shares_devices, report
        self._held: tuple[PublishedWeights, WeightsInfo] | None = None
        self._interrupted = threading.Event()

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Rollouts come as they finish, in any order. Raises RunError when nobody is left to sample."""
        self._interrupted.clear()
        generation = Generation(
            self._own, self._members, self._assignment, self._tell_weights, self._report, self._interrupted.is_set
        )
        return generation.run(requests, params)

    def generate_on_each(self, request: Request, params: SamplingParams) -> list[tuple[str, Rollout]]:
        """See `GroupSampler`. All engines sample at once. Raises RunError where one fails without being lost."""
        asked = [(member, self._ask(member, request, params)) for member in self._present if member.holds_weights]
        found = [] if self._own is None else [("the engine", next(iter(self._own.generate([request], params))))]
        for member, stream in asked:
            try:
                if stream is not None:
                    found.append((member.remote.name, next(stream)))
            except WorkerLost as lost:
                self._restart(member, lost)
            finally:
                if stream is not None:
                    stream.close()
        return found

    def interrupt(self) -> None:
        """End the generation under way; it yields unfinished completions as they are, the own sampler's excepted."""
        self._interrupted.set()

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """All samplers take them over at the same time. Raises RunError when one reports other weights than another."""
        replies = [(member, member.remote.call(*self._load_call(weights))) for member in self._present]
        held = None if self._own is None else self._own.load_weights(weights)
        last_loss = REMEDY
        for member, reply in replies:
            try:
                info: WeightsInfo = reply.result()
            except WorkerLost as lost:
                member.drop()
                last_loss = str(lost)
                self._report(f"{lost}; it takes no further part")
                continue
            held = held or info
            member.loaded(info, held)
        if held is None:
            raise RunError(f"no sampler is left to take over the weights. {last_loss}")
        self._held = weights, held
        return held

    def release_memory(self) -> None:
        replies = [m.remote.call("release_memory") for m in self._present] if self._shares_devices else []
        if self._own is not None:
            self._own.release_memory()
        for reply in replies:
            reply.result()

    def close(self) -> None:
        if self._own is not None:
            self._own.close()

    @property
    def _present(self) -> list[Member]:
        return [member for member in self._members if not member.is_gone]

    def _ask(self, member: Member, request: Request, params: SamplingParams) -> Stream[Rollout] | None:
        try:
            return member.remote.stream("generate", [request], params)
        except WorkerLost as lost:
            self._restart(member, lost)
            return None

    def _restart(self, member: Member, lost: WorkerLost) -> None:
        try:
            member.remote.restart(lost)
        except WorkerLost as final:
            member.drop()
            self._report(f"{final}; it takes no further part")

    def _tell_weights(self, member: Member) -> None:
        if self._held is None:  # nothing was published: it samples with what it was started with, as the others do
            member.begin_loading(None, None)
        else:
            weights, held = self._held
            member.begin_loading(self._load_call(weights), held)
