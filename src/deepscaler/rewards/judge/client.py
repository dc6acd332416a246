"""One chat completion of an OpenAI-compatible server, with time limit and retries. Standard library only."""

from __future__ import annotations

import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from deepscaler.json_text import parse_json

BACKOFF_S, BACKOFF_MAX_S = 0.5, 30.0
AGAIN = (408, 409, 429, 500, 502, 503, 504)
MAX_REPLY_BYTES = 2**22


@dataclass(frozen=True, slots=True)
class Endpoint:
    """url: up to /v1. timeout_s: of one attempt."""

    url: str
    api_key: str
    timeout_s: float
    max_attempts: int


@dataclass(frozen=True, slots=True)
class Reply:
    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_requests: int = 1


class JudgeError(Exception):
    """The judge gave no reply that can be read; the message says what it said instead."""


def ask(endpoint: Endpoint, body: Mapping[str, Any]) -> Reply:
    """Raises JudgeError after the last attempt, or at once for what another attempt cannot mend."""
    wait = problem = ""
    for attempt in range(1, endpoint.max_attempts + 1):
        try:
            return _ask_once(endpoint, body, attempt)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(500).decode(errors="replace")
            wait = error.headers.get("Retry-After", "")
            problem = f"HTTP {error.code}: {said}"
            if error.code not in AGAIN:
                raise JudgeError(f"{endpoint.url} refused: {problem}") from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            wait, problem = "", f"{type(error).__name__}: {error}"
        if attempt < endpoint.max_attempts:
            longest = min(BACKOFF_MAX_S, BACKOFF_S * 2 ** (attempt - 1))
            time.sleep(min(BACKOFF_MAX_S, float(wait)) if wait.isdecimal() else random.uniform(0, longest))
    raise JudgeError(f"{endpoint.url} did not answer (max_attempts = {endpoint.max_attempts}); last {problem}")


def _ask_once(endpoint: Endpoint, body: Mapping[str, Any], attempt: int) -> Reply:
    headers = {"Content-Type": "application/json"}
    if endpoint.api_key:
        headers["Authorization"] = f"Bearer {endpoint.api_key}"
    address = f"{endpoint.url.rstrip('/')}/chat/completions"
    request = urllib.request.Request(address, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=endpoint.timeout_s) as response:
        content = response.read(MAX_REPLY_BYTES)
    try:
        found: Any = parse_json(content)
        text = found["choices"][0]["message"]["content"]
        usage = found.get("usage") or {}
        counts = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise JudgeError(f"{endpoint.url} gave no chat completion: {content[:200]!r}") from error
    return Reply(str(text or ""), *counts, num_requests=attempt)
