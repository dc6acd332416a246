"""An engine of the server in a process of its own: the far end, and the near end that the server talks to.

Near to far: a submission, or the number of a job that is cancelled. Far to near: READY, then outputs of jobs. Every
choice of a job ends with exactly one output that has a finish reason, or one error.
"""

from __future__ import annotations

import logging
import queue
import signal
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import torch.multiprocessing as multiprocessing
from torch import nn

from deepscaler import cpu
from deepscaler.engines.torch.generic_engine import make_engine
from deepscaler.lifetime import die_with_parent
from deepscaler.serve.engine_thread import EngineThread, Job
from deepscaler.serve.output_processor import CompletionOutput, OutputCallback
from deepscaler.serve.requests import CompletionRequest, RequestError
from deepscaler.types import IntArray, RunError, SamplingParams

START_S = 300.0  # for a process to import torch and open its engine
CLOSE_S = 10.0
READY = "ready"
Inputs = Sequence[tuple[IntArray, SamplingParams]]
_log = logging.getLogger("deepscaler.serve")


@dataclass(frozen=True)
class EngineOptions:
    """How the engine of every process is started; it can be pickled, with the weights in shared memory.

    max_active, max_cache_bytes: of one engine. The rest as of EngineThread.
    """

    model: nn.Module
    tokenizer: Any
    stop_ids: frozenset[int]
    max_active: int
    max_cache_bytes: int
    capacity: int
    max_queued: int
    stop: tuple[str, ...] = ()

    def start(self) -> EngineThread:
        engine = make_engine(
            self.model, stop_ids=self.stop_ids, max_active=self.max_active, max_cache_bytes=self.max_cache_bytes
        )
        return EngineThread(
            engine,
            decode=self._decode,
            stop_ids=self.stop_ids,
            capacity=self.capacity,
            max_queued=self.max_queued,
            stop=self.stop,
        )

    def _decode(self, ids: Sequence[int], skip: bool) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False)


class _Submission(NamedTuple):
    number: int
    inputs: Inputs
    request: CompletionRequest
    chosen: Collection[int]


class _Output(NamedTuple):
    """value: an output, or (message, param, status, code) of a RequestError, which does not survive pickling."""

    number: int
    value: CompletionOutput | tuple[str, str | None, int, str | None]


def serve_engine(connection: Connection, options: EngineOptions) -> None:
    """The far end: one engine, until the near end closes the connection or the engine fails."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    cpu.prepare(threads=1)
    thread, lock, jobs = options.start(), threading.Lock(), dict[int, Job]()

    def send(number: int, output: CompletionOutput | RequestError) -> None:
        failed = isinstance(output, RequestError)
        value = (str(output), output.param, output.status, output.code) if failed else output
        with lock:
            connection.send(_Output(number, value))

    connection.send(READY)
    while True:
        try:
            message = connection.recv()
        except (EOFError, OSError):
            break
        if not isinstance(message, _Submission):
            if (job := jobs.pop(message, None)) is not None:
                job.cancel()
            continue
        number = message.number
        try:
            jobs[number] = thread.submit(
                message.inputs, message.request, lambda o, n=number: send(n, o), chosen=message.chosen
            )
        except RequestError:  # only a failed engine refuses: the near end counts
            break
    connection.close()
    thread.close()


class RemoteJob:
    """Choices of a request in another process. open: those without their last output."""

    def __init__(self, engine: EngineProcess, number: int, count: int, on_output: OutputCallback) -> None:
        self._engine, self._number = engine, number
        self.open, self.on_output = count, on_output

    def cancel(self) -> None:
        self._engine.cancel(self._number)


class EngineProcess:
    """The near end. `submit` never blocks; outputs arrive in a thread of this object's.

    When the process ends, its open choices get an error, and `lost` says so. num_jobs: requests so far that had
    choices here.
    """

    def __init__(self, name: str, options: EngineOptions) -> None:
        self.name, self.lost, self.num_open = name, "", 0
        context = multiprocessing.get_context("spawn")
        self._connection, far = context.Pipe()
        self._process = context.Process(target=serve_engine, args=(far, options), daemon=True, name=name)
        self._process.start()
        far.close()
        self._lock = threading.Lock()
        self._jobs: dict[int, RemoteJob] = {}
        self.num_jobs = 0
        self._outbox: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=run, name=name, daemon=True) for run in (self._send, self._receive)]

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Raises RunError when it dies, or takes longer than START_S."""
        try:
            if not self._connection.poll(START_S):
                raise RunError(f"{self.name} did not start within {START_S:.0f} s; start with fewer --processes")
            self._connection.recv()
        except (EOFError, OSError):
            raise RunError(f"{self.name} {self._ending()} while it started; its own output says why") from None
        for thread in self._threads:
            thread.start()

    def submit(
        self, inputs: Inputs, request: CompletionRequest, on_output: OutputCallback, *, chosen: Collection[int]
    ) -> RemoteJob:
        with self._lock:
            self.num_jobs += 1
            job = RemoteJob(self, self.num_jobs, len(chosen), on_output)
            self._jobs[self.num_jobs] = job
            self.num_open += len(chosen)
            self._outbox.put(_Submission(self.num_jobs, inputs, request, tuple(chosen)))
            lost = self.lost
        if lost:  # it ended meanwhile, and nobody reads the outbox
            self._fail_all()
        return job

    def cancel(self, number: int) -> None:
        self._outbox.put(number)

    def close(self) -> None:
        self._outbox.put(None)
        self._process.kill()
        self._process.join(timeout=CLOSE_S)
        self._connection.close()

    def _send(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:  # the receiving thread says so
                return

    def _receive(self) -> None:
        while True:
            try:
                message = self._connection.recv()
            except (EOFError, OSError, TypeError):  # TypeError: the connection was closed here while it was read
                break
            value = message.value
            output = value if isinstance(value, CompletionOutput) else _error(*value)
            self._deliver(message.number, output)
        with self._lock:
            self.lost = f"{self.name} of the server {self._ending()}"
        self._outbox.put(None)
        if self._fail_all():
            _log.error("%s; requests under way there failed, the other processes go on", self.lost)

    def _deliver(self, number: int, output: CompletionOutput | RequestError) -> None:
        with self._lock:
            if (job := self._jobs.get(number)) is None:
                return
            if isinstance(output, RequestError) or output.finish_reason is not None:
                job.open -= 1
                self.num_open -= 1
                if not job.open:
                    del self._jobs[number]
        job.on_output(output)

    def _fail_all(self) -> int:
        """Every open choice gets an error; returns how many there were."""
        with self._lock:
            jobs, self._jobs = list(self._jobs.values()), {}
            count, self.num_open = self.num_open, 0
        for job in jobs:
            for _ in range(job.open):
                job.on_output(RequestError(f"{self.lost}; send the request again", status=500))
        return count

    def _ending(self) -> str:
        self._process.join(timeout=1)
        code = self._process.exitcode
        memory = "; the system may have run out of memory" if code == -signal.SIGKILL else ""
        return f"ended (exit code {code}){memory}"


def _error(message: str, param: str | None, status: int, code: str | None) -> RequestError:
    return RequestError(message, param=param, status=status, code=code)


def start_processes(options: EngineOptions, count: int) -> list[EngineProcess]:
    """`count` further engines over the same weights, all started before one is waited for. Raises RunError."""
    if count:
        options.model.share_memory()
    started: list[EngineProcess] = []
    try:
        for number in range(1, count + 1):
            started.append(EngineProcess(f"engine process {number}", options))
        for process in started:
            process.wait_until_ready()
    except BaseException:
        for process in started:
            process.close()
        raise
    return started
