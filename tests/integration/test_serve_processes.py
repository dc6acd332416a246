"""A server with an engine in every process: the same completions as one, and it survives the loss of a process."""

from __future__ import annotations

import os
import queue
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepscaler.data.templates import render_prompt
from deepscaler.modeling.load import load_tokenizer
from deepscaler.serve.app import Service
from deepscaler.serve.engine_pool import EnginePool
from deepscaler.serve.output_processor import CompletionOutput, sampling_params
from deepscaler.serve.requests import RequestError, parse_chat
from deepscaler.types import IntArray, SamplingParams
from served_model import served
from tiny_run import write_model

WAIT_S = 60.0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("served") / "model")


@pytest.fixture(scope="module")
def alone(model: Path) -> Iterator[Service]:
    with served(model) as (_, service):
        yield service


@pytest.fixture(scope="module")
def pooled(model: Path) -> Iterator[Service]:
    with served(model, processes=2) as (_, service):
        yield service


class Asked:
    """A request of `n` samples under way, and what came of it."""

    def __init__(self, pool: EnginePool, prompt: IntArray, n: int, max_tokens: int = 24) -> None:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "?"}], "n": n, "max_tokens": max_tokens}
        self.request = parse_chat({**body, "temperature": 1.0, "logprobs": True}, "tiny")
        self.outputs: queue.Queue[CompletionOutput | RequestError] = queue.Queue()
        params: SamplingParams = sampling_params(self.request, prompt, pool.capacity, 7)
        self.job = pool.submit([(prompt, params)], self.request, self.outputs.put)

    def finished(self) -> dict[int, CompletionOutput]:
        """The last output of every choice. Raises the error of a choice that has one."""
        found: dict[int, CompletionOutput] = {}
        while len(found) < self.request.n:
            output = self.outputs.get(timeout=WAIT_S)
            if isinstance(output, RequestError):
                raise output
            if output.finish_reason is not None:
                assert output.index not in found
                found[output.index] = output
        return found


def prompt_of(model: Path) -> IntArray:
    return render_prompt(load_tokenizer(model), "37 a+25")[0]


def test_several_processes_give_the_completions_of_one(model: Path, alone: Service, pooled: Service) -> None:
    prompt, before = prompt_of(model), pooled.engine.others[0].num_jobs
    one = Asked(alone.engine, prompt, 6).finished()
    many = Asked(pooled.engine, prompt, 6)
    two = many.finished()
    assert {i: o.token_ids for i, o in one.items()} == {i: o.token_ids for i, o in two.items()}
    assert len({o.token_ids for o in one.values()}) > 1
    for index, output in one.items():
        first, second = output.logprobs, two[index].logprobs
        assert first is not None and second is not None and first.values == pytest.approx(second.values, abs=1e-4)
    assert pooled.engine.others[0].num_jobs == before + 1  # half of the choices were made there
    assert pooled.engine.num_open == 0


def test_choices_go_where_fewest_are_open_and_all_count(model: Path, pooled: Service) -> None:
    prompt, pool = prompt_of(model), pooled.engine
    running = [Asked(pool, prompt, 3, max_tokens=300) for _ in range(2)]
    assert pool.num_open <= 6 and pool.others[0].num_open <= 3
    with pytest.raises(RequestError, match="the server accepts 1024") as caught:
        pool.check(1024)
    assert caught.value.status == 429
    for asked in running:
        asked.job.cancel()
    deadline = time.monotonic() + WAIT_S
    while pool.num_open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert pool.num_open == 0


def test_a_lost_process_fails_its_own_choices_and_the_rest_goes_on(model: Path) -> None:
    prompt = prompt_of(model)
    with served(model, processes=2) as (_, service):
        (process,) = service.engine.others
        os.kill(process.pid, signal.SIGSTOP)  # so that its choice is surely open when it dies
        asked = Asked(service.engine, prompt, 2)
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(
            RequestError, match=r"engine process 1 of the server ended \(exit code -9\).*send the request"
        ):
            asked.finished()
        assert sorted(Asked(service.engine, prompt, 3).finished()) == [0, 1, 2]
        assert service.engine.num_open == 0 and process.lost
        pid = process.pid
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
