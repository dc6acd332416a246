"""A completion ends with the first stop token or stop string that its request names, and with no other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deepscaler.config.evaluation import ClientSection
from deepscaler.engines.openai.client import OpenAIClient
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import Sequence
from deepscaler.types import FinishReason, SamplingParams
from engine_runs import PARAMS, first_end, letters, requests, run
from scripted_server import Script, ScriptedServer

NEVER: frozenset[int] = frozenset()


@pytest.mark.parametrize("stops", [("ab",), ("ba", "aabb"), ("aba", "lal")])
def test_a_completion_ends_with_the_token_that_completes_a_stop_string(tiny_model, stops):
    model, wanted = tiny_model(), requests(6)
    free = run(TorchEngine(model, stop_ids=NEVER, decode=letters), wanted)
    found = run(TorchEngine(model, stop_ids=NEVER, decode=letters, max_active=5), wanted, replace(PARAMS, stop=stops))
    ended = 0
    for key, rollout in found.items():
        end = first_end(letters(free[key].completion_ids), stops)
        assert rollout.completion_ids.tolist() == free[key].completion_ids[:end].tolist()
        assert rollout.finish_reason is (FinishReason.LENGTH if end is None else FinishReason.STOP)
        ended += end is not None
    assert ended


def test_requests_of_one_batch_keep_their_own_stops(tiny_model):
    engine, request = TorchEngine(tiny_model(), stop_ids=NEVER), requests(1, samples=1)[0]
    free = run(engine, [request])[request.problem_id, 0].completion_ids.tolist()
    token = free[5]
    scheduler, sequences = engine.open_scheduler(200), []
    for params in (PARAMS, replace(PARAMS, stop_token_ids=(token,))):
        sequences.append(Sequence(request, 0, params))
        scheduler.add(sequences[-1])
    while scheduler.has_unfinished:
        scheduler.step()
    lengths = [len(s.tokens) for s in sequences]
    assert lengths == [90, free.index(token) + 1]
    assert [scheduler.finish_reason(s) for s in sequences] == [FinishReason.LENGTH, FinishReason.STOP]


def test_an_engine_without_a_tokenizer_refuses_stop_strings(tiny_model):
    with pytest.raises(ValueError, match="without a tokenizer"):
        run(TorchEngine(tiny_model(), stop_ids=NEVER), requests(1), replace(PARAMS, stop=("x",)))


def test_a_server_is_asked_to_stop_where_the_recipe_says():
    params = SamplingParams(10, stop=("\n\nQ:",), stop_token_ids=(7,))
    with ScriptedServer(Script(lambda question, index: "7")) as server:
        OpenAIClient(server.url, "scripted", params, ClientSection()).probe("x")
    (asked,) = server.bodies
    assert asked["stop"] == ["\n\nQ:"] and asked["stop_token_ids"] == [7]
