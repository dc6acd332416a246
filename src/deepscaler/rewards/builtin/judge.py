"""A model behind an OpenAI-compatible server as judge: `deepscaler serve MODEL`, vLLM, or a paid API.

LLM-as-a-judge, Zheng et al. 2023, arXiv:2306.05685, with a reference where there is one.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deepscaler.json_text import parse_json
from deepscaler.rewards.judge.cache import ReplyCache
from deepscaler.rewards.judge.client import Endpoint, Reply, ask

TEMPLATE = """You grade the answer of a student. Be strict: only what is written counts.

[Question]
{prompt}

[Reference answer]
{references}

[Student's answer]
{response}

Explain in one sentence what is right or wrong. Then give a score from 0 (useless) to 10 (perfect) as [[score]]."""
SCORE = r"\[\[\s*(-?\d+(?:\.\d+)?)\s*\]\]"
PLACEHOLDERS = ("prompt", "response", "thinking", "answer", "references")
_PLACEHOLDER = re.compile(r"\{(" + "|".join(PLACEHOLDERS) + r")\}")
_threads = ThreadPoolExecutor(64, thread_name_prefix="judge")


async def reward(
    prompt: str,
    response: str | None,
    thinking: str,
    answer: str | None,
    references: Sequence[str],
    *,
    url: str,
    model: str,
    template: str = TEMPLATE,
    system_prompt: str = "",
    score: str = SCORE,
    json_key: str = "",
    scale: Sequence[float] = (0.0, 10.0),
    unfinished: float | None = 0.0,
    max_tokens: int = 512,
    temperature: float = 0.0,
    timeout_s: float = 30.0,
    max_attempts: int = 3,
    api_key_env: str = "OPENAI_API_KEY",
    prompt_cost: float = 0.0,
    completion_cost: float = 0.0,
    extra_body: dict[str, Any] | None = None,
) -> dict[str, float | None]:
    """The judge's score, `scale` mapped to 0 … 1, with tokens, cost, requests and cached replies beside it.

    template: with {prompt}, {response}, {thinking}, {answer}, {references}. score: a regular expression whose last
    match in the reply holds the number in its first group; json_key: instead, the field of the last JSON object in the
    reply. unfinished: reward of a completion without a response, which the judge does not see. prompt_cost,
    completion_cost: per million tokens, in any currency. Raises ValueError for a reply without a score.
    """
    if response is None or not response.strip():
        return {"reward": unfinished}
    filled = {"prompt": prompt, "response": response, "thinking": thinking, "answer": answer or "(none)"}
    filled["references"] = " or ".join(references)
    messages = [{"role": "system", "content": system_prompt}] if system_prompt else []
    messages.append({"role": "user", "content": fill(template, filled)})
    body = {"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": temperature}
    endpoint = Endpoint(url, os.environ.get(api_key_env, ""), timeout_s, max_attempts)
    loop = asyncio.get_running_loop()
    reply, cached = await loop.run_in_executor(_threads, _asked, endpoint, {**body, **(extra_body or {})})
    found = read_score(reply.text, score, json_key)
    low, high = scale
    if not low <= found <= high:
        raise ValueError(f"the judge's score {found:g} is outside scale = [{low:g}, {high:g}]: {reply.text[-200:]!r}")
    cost = (prompt_cost * reply.prompt_tokens + completion_cost * reply.completion_tokens) / 1e6
    return {
        "reward": (found - low) / (high - low),
        "requests": 0.0 if cached else float(reply.num_requests),
        "cached": float(cached),
        "prompt_tokens": 0.0 if cached else float(reply.prompt_tokens),
        "completion_tokens": 0.0 if cached else float(reply.completion_tokens),
        "cost": 0.0 if cached else cost,
    }


def fill(template: str, values: dict[str, str]) -> str:
    """The template with its placeholders filled in one pass: a `{prompt}` in a response stays as it is."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def read_score(text: str, pattern: str, json_key: str) -> float:
    """Raises ValueError with the end of the reply where there is no score."""
    if json_key:
        for start in reversed([found.start() for found in re.finditer(r"\{", text)][-50:]):
            try:
                value = parse_json(text[start : text.rindex("}") + 1])
            except ValueError:
                continue
            if isinstance(value, dict) and isinstance(value.get(json_key), int | float):
                return float(value[json_key])
        raise ValueError(f"the judge's reply holds no JSON with {json_key!r}: {text[-200:]!r}")
    matches = re.findall(pattern, text)
    if not matches:
        raise ValueError(f"the judge's reply holds no score (score = {pattern!r}): {text[-200:]!r}")
    return float(matches[-1])


def _asked(endpoint: Endpoint, body: dict[str, Any]) -> tuple[Reply, bool]:
    """The reply, and whether it was known."""
    cache = ReplyCache.of_environment()
    known = cache.find(endpoint.url, body)
    if known is not None:
        return known, True
    reply = ask(endpoint, body)
    cache.keep(endpoint.url, body, reply)
    return reply, False


def check(
    *,
    url: str = "",
    model: str = "",
    template: str = TEMPLATE,
    score: str = SCORE,
    scale: Sequence[float] = (0.0, 10.0),
    **others: object,
) -> None:
    if not url.startswith(("http://", "https://")) or not model:
        raise ValueError("a judge needs url, such as http://127.0.0.1:8000/v1, and model, its name there")
    if "{response}" not in template:
        raise ValueError("template has no {response}, so the judge would not see what it judges")
    if re.compile(score).groups != 1:
        raise ValueError(f"score = {score!r}: expected a regular expression with one group, the number")
    if len(scale) != 2 or not scale[0] < scale[1]:
        raise ValueError(f"scale = {list(scale)}: expected the lowest and the highest score")
    del others
