"""A judge of one's own: a coroutine that asks a model behind an OpenAI-compatible server for a score.

The built-in part `judge` does the same with retries, a cache and costs (docs/rewards.md); write one like this where its
prompt template is not enough. The part needs `network = true`, and the key's name in `environment`.

    [[reward.parts]]
    name = "clear"
    function = "judge_reward.py:clear"
    arguments = { url = "http://127.0.0.1:8000/v1", model = "judge" }
    network = true
    wall_s = 60
"""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request

QUESTION = """How clear is this explanation to a reader of twelve years? Answer with one number from 0 to 10 alone.

{response}"""


async def clear(response: str | None, *, url: str, model: str) -> dict[str, float] | None:
    """0 to 1, with the tokens that it took; None for a completion that never answers."""
    if response is None:
        return None
    text, num_tokens = await asyncio.to_thread(ask, url, model, QUESTION.replace("{response}", response))
    score = re.search(r"\d+(?:\.\d+)?", text)
    if score is None:
        raise ValueError(f"the judge gave no number: {text[:100]!r}")
    return {"reward": min(float(score[0]), 10.0) / 10.0, "tokens": num_tokens}


def ask(url: str, model: str, question: str) -> tuple[str, int]:
    """The reply of the server, and the tokens of question and reply."""
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 16, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=30) as reply:
        content = json.load(reply)
    usage = content.get("usage") or {}
    return content["choices"][0]["message"]["content"], usage.get("total_tokens", 0)
