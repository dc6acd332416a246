"""A client of the scripted server, quick to try again, and what it asks."""

from __future__ import annotations

import json
from typing import Any

from deepscaler.config.evaluation import ClientSection
from deepscaler.engines.openai.client import ChatRequest, OpenAIClient, request_seed
from deepscaler.types import SamplingParams
from scripted_server import ScriptedServer

PARAMS = SamplingParams(max_completion_tokens=100, temperature=0.6, top_p=0.95, seed=3)
QUICK: dict[str, Any] = {"concurrency": 16, "backoff_s": 0.005, "backoff_max_s": 0.02, "total_s": 5.0}


def client(server: ScriptedServer, *, model: str = "scripted", params: SamplingParams = PARAMS, **changes: Any) -> Any:
    return OpenAIClient(server.url, model, params, ClientSection(**(QUICK | changes)))


def chat_requests(count: int) -> list[ChatRequest]:
    return [ChatRequest(i, f"question {i}", request_seed(1, "p", i)) for i in range(count)]


def echo(question: str, seed: int) -> str:
    return f"{question} with {seed}"


def reply(message: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"id": "a", "choices": [{"message": message, "finish_reason": "stop"}], **more}).encode()
