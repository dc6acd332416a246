"""Several processes on one machine that share one set of weights: each samples and computes gradients on one thread.

The weights live in shared memory and only this process updates them, so publishing costs nothing. A worker gets a
share of the requests, samples or matrices, and hands back rollouts, or a flat gradient or matrices in shared memory.
Shares are fixed by position, so the result is a function of the recipe and the number of processes.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from typing import Any, TypeVar

import torch
import torch.multiprocessing as multiprocessing
from torch import Tensor, nn

from deepscaler import cpu
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.stops import Decode
from deepscaler.lifetime import die_with_parent
from deepscaler.orchestration.shares import split_evenly, split_requests
from deepscaler.training.gradients import GradientComputer, Logprobs
from deepscaler.training.metrics import UpdateMetrics
from deepscaler.training.muon import orthogonalise_all, orthogonalise_cost
from deepscaler.types import Request, Rollout, RunError, SamplingParams, TrainSample, WeightsInfo
from deepscaler.weights import weights_digest

ANSWER_LIMIT_S = 3600.0  # longest wait for one message of a worker
Shape = tuple[int, ...]
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """How the embedded engine of every process is started. decode: where completions end at stop strings."""

    stop_ids: frozenset[int]
    max_active: int
    decode: Decode | None = None
    float32_head: bool = False

    def start(self, model: nn.Module, is_cancelled: Callable[[], bool] = lambda: False) -> TorchEngine:
        return TorchEngine(
            model,
            stop_ids=self.stop_ids,
            decode=self.decode,
            max_active=self.max_active,
            float32_head=self.float32_head,
            is_cancelled=is_cancelled,
        )


class Worker:
    """The near end of one worker process."""

    def __init__(self, computer: GradientComputer, engine: EngineSettings, *, trains: bool = True) -> None:
        """trains: whether it will be asked for gradients; sampling needs no memory for them."""
        context = multiprocessing.get_context("spawn")
        near, far = context.Pipe()
        for model in (computer.model, computer.reference):
            if model is not None:
                model.share_memory()
        # The worker's gradient, or matrices it is lent: never more than there are weights.
        num_weights = sum(p.numel() for p in computer.model.parameters())
        self._shared = torch.zeros(num_weights if trains else 0).share_memory_()
        self._connection: Connection = near
        self._cancelled = context.Event()
        self._process = context.Process(
            target=_serve, args=(far, computer, engine, self._shared, self._cancelled), daemon=True
        )
        self._process.start()
        far.close()

    def send(self, name: str, *arguments: Any) -> None:
        try:
            self._connection.send((name, arguments))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise self._died() from error

    def generate(self, share: Sequence[Request], params: SamplingParams, version: int) -> None:
        """Rollouts follow as answers, then None."""
        self._cancelled.clear()
        self.send("generate", share, params, version)

    def cancel(self) -> None:
        """Abandon the generation under way; None then comes soon."""
        self._cancelled.set()

    def has_answer(self) -> bool:
        return self._connection.poll(0)

    def receive(self) -> Any:
        """The next answer. Raises RunError when the worker died, failed, or is silent past the limit."""
        deadline = time.monotonic() + ANSWER_LIMIT_S
        while not self._connection.poll(1.0):
            if not self._process.is_alive():
                raise self._died()
            if time.monotonic() > deadline:
                raise RunError(f"a worker process gave no answer for {ANSWER_LIMIT_S:.0f} s; it is being stopped")
        try:
            kind, value = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            raise self._died() from error
        if kind == "error":
            raise RunError(f"a worker process failed: {value}")
        return value

    def add_gradient(self, model: nn.Module) -> None:
        """Add the gradient the worker left in shared memory to the model's."""
        parts = _parts(self._shared, [p.shape for p in model.parameters()])
        for parameter, part in zip(model.parameters(), parts, strict=True):
            parameter.grad = part.clone() if parameter.grad is None else parameter.grad.add_(part)

    def orthogonalise(self, matrices: Sequence[Tensor]) -> None:
        """Lend the worker these float32 matrices, together no larger than the weights; `orthogonal` fetches them."""
        shapes = [tuple(m.shape) for m in matrices]
        for part, matrix in zip(_parts(self._shared, shapes), matrices, strict=True):
            part.copy_(matrix)
        self.send("orthogonalise", shapes)

    def orthogonal(self) -> list[Tensor]:
        """What the matrices lent last have become; valid until the worker's next answer."""
        return _parts(self._shared, self.receive())

    def close(self) -> None:
        self._process.kill()
        self._process.join(timeout=10)
        self._connection.close()

    def _died(self) -> RunError:
        return RunError(
            f"a worker process died (exit code {self._process.exitcode}); the system may have run out of memory. Run "
            "the same command again to continue, with a smaller training.processes if it happens again"
        )


class Team:
    """This process and its workers as one sampler and one gradient team."""

    def __init__(self, computer: GradientComputer, engine: TorchEngine, workers: Sequence[Worker]) -> None:
        self._computer, self._engine, self._workers = computer, engine, list(workers)
        self.dtype = engine.dtype
        self.version = 0

    @property
    def num_processes(self) -> int:
        return 1 + len(self._workers)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Every process takes its share of each group; rollouts come as they finish, in any order."""
        shares = split_requests(requests, 1 + len(self._workers), params.max_completion_tokens)
        self._engine.version = self.version
        for worker, share in zip(self._workers, shares[1:], strict=True):
            worker.generate(share, params, self.version)
        busy = list(self._workers)
        try:
            for rollout in self._engine.generate(shares[0], params):
                yield rollout
                yield from _answers(busy, wait=False)
            yield from _answers(busy, wait=True)
        finally:  # an abandoned generation: what the workers still send must not be taken for the next answer
            for worker in busy:
                worker.cancel()
            for _ in _answers(busy, wait=True):
                pass

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], version: int) -> None:
        """The weights are shared already: only the version is new."""
        self._engine.load_weights(weights, version)
        self.version = version

    def weights_info(self) -> WeightsInfo:
        """Every process reads back what it samples from, all at once. Raises RunError when one sees other weights."""
        for worker in self._workers:
            worker.send("digest")
        held = self._engine.weights_info()
        for worker in self._workers:
            if worker.receive() != held.digest:
                raise RunError(f"a worker process does not see the weights of version {held.version}; the run stops")
        return held

    def accumulate(self, samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None) -> UpdateMetrics:
        return self._accumulate(samples, old, ref, lambda: None, 0)[0]

    def accumulate_while(
        self, samples: Sequence[TrainSample], work: Callable[[], Made], work_tokens: int
    ) -> tuple[UpdateMetrics, Made]:
        """As `accumulate`, on-policy; meanwhile this process also does `work`, about the cost of so many tokens."""
        return self._accumulate(samples, None, None, work, work_tokens)

    def _accumulate(
        self,
        samples: Sequence[TrainSample],
        old: Logprobs | None,
        ref: Logprobs | None,
        work: Callable[[], Made],
        work_tokens: int,
    ) -> tuple[UpdateMetrics, Made]:
        self._engine.release_memory()
        shares = split_evenly([s.num_tokens for s in samples], 1 + len(self._workers), work_tokens)
        for worker, share in zip(self._workers, shares[1:], strict=True):
            worker.send("accumulate", *_chosen(share, samples, old, ref))
        metrics = self._computer.accumulate(*_chosen(shares[0], samples, old, ref))
        made = work()
        for worker in self._workers:
            metrics.merge(worker.receive())
            worker.add_gradient(self._computer.model)
        return metrics, made

    def orthogonalise(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """`orthogonalise_all` shared out. A matrix comes out the same whichever process has it."""
        shares = split_evenly([orthogonalise_cost(m) for m in matrices], 1 + len(self._workers))
        for worker, share in zip(self._workers, shares[1:], strict=True):
            worker.orthogonalise([matrices[i] for i in share])
        parts = [orthogonalise_all([matrices[i] for i in shares[0]])]
        parts += [worker.orthogonal() for worker in self._workers]
        return _in_order(shares, parts)

    def logprobs(self, samples: Sequence[TrainSample], *, reference: bool = False) -> Logprobs:
        self._engine.release_memory()
        shares = split_evenly([s.num_tokens for s in samples], 1 + len(self._workers))
        for worker, share in zip(self._workers, shares[1:], strict=True):
            worker.send("logprobs", [samples[i] for i in share], reference)
        parts = [self._computer.logprobs([samples[i] for i in shares[0]], reference=reference)]
        parts += [worker.receive() for worker in self._workers]
        return _in_order(shares, parts)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


def _answers(busy: list[Worker], *, wait: bool) -> Iterator[Rollout]:
    """Rollouts of the workers; who has no more to send leaves `busy`."""
    for worker in list(busy):
        while worker in busy and (wait or worker.has_answer()):
            try:
                rollout = worker.receive()
            except RunError:
                busy.clear()
                raise
            if rollout is None:
                busy.remove(worker)
            else:
                yield rollout


def _in_order(shares: Sequence[Sequence[int]], parts: Sequence[Sequence[Made]]) -> list[Made]:
    """One value per index, from one part per share."""
    values = {i: v for share, part in zip(shares, parts, strict=True) for i, v in zip(share, part, strict=True)}
    return [values[i] for i in range(len(values))]


def _parts(flat: Tensor, shapes: Sequence[Shape]) -> list[Tensor]:
    """Views of the given shapes, one after the other."""
    sizes = [math.prod(shape) for shape in shapes]
    return [part.view(shape) for part, shape in zip(flat[: sum(sizes)].split(sizes), shapes, strict=True)]


def _chosen(
    share: Sequence[int], samples: Sequence[TrainSample], old: Logprobs | None, ref: Logprobs | None
) -> tuple[list[TrainSample], Logprobs | None, Logprobs | None]:
    return (
        [samples[i] for i in share],
        None if old is None else [old[i] for i in share],
        None if ref is None else [ref[i] for i in share],
    )


def _serve(
    connection: Connection,
    computer: GradientComputer,
    engine_settings: EngineSettings,
    shared: Tensor,
    cancelled: Event,
) -> None:
    """The worker process: answer until the connection closes."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cpu.prepare(threads=1)
    engine = engine_settings.start(computer.model, cancelled.is_set)
    while True:
        try:
            name, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            for answer in _answer(name, arguments, computer, engine, shared):
                connection.send(("answer", answer))
        except Exception as error:  # reported to the parent, which stops the run with it
            connection.send(("error", f"{type(error).__name__}: {error}"))


def _answer(
    name: str, arguments: tuple[Any, ...], computer: GradientComputer, engine: TorchEngine, shared: Tensor
) -> Iterator[Any]:
    if name == "generate":
        requests, params, engine.version = arguments
        yield from engine.generate(requests, params)
        yield None
    elif name == "digest":
        yield weights_digest(computer.model.named_parameters())
    elif name == "logprobs":
        samples, reference = arguments
        yield computer.logprobs(samples, reference=reference)
    elif name == "accumulate":
        parameters = list(computer.model.parameters())
        for parameter, part in zip(parameters, _parts(shared.zero_(), [p.shape for p in parameters]), strict=True):
            parameter.grad = part  # what the backward adds to, so that no second copy of it exists
        metrics = computer.accumulate(*arguments)
        computer.model.zero_grad(set_to_none=True)  # the memory is lent for other things as well
        yield metrics
    elif name == "orthogonalise":
        (shapes,) = arguments
        lent = _parts(shared, shapes)
        for matrix, result in zip(lent, orthogonalise_all(lent), strict=True):
            matrix.copy_(result)
        yield shapes
    else:
        raise ValueError(f"unknown request {name!r}")
