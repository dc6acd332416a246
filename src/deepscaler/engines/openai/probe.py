"""Detection of settings that a server ignores or changes, as far as its replies show it.

Before the first sample: the list of models, the context length, and a few short completions whose equality or
difference shows whether seed, temperature, top_p, top_k and n have an effect. Afterwards: the replies themselves.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from deepscaler.engines.openai.client import BYTES_PER_TOKEN, ChatResponse, OpenAIClient
from deepscaler.engines.openai.http import EndpointError
from deepscaler.engines.openai.reply import Reply
from deepscaler.observability.counts import counted
from deepscaler.types import FinishReason

PROBE_TOKENS = 24
MEANT = frozenset({"seed", "temperature", "top_p", "top_k", "stop", "stop_token_ids"})  # what a recipe asks for
PROBE_TEMPERATURE = 1.5
# Settings that other servers than OpenAI's take from the model's generation_config, or have defaults for.
_OFF: dict[str, object] = {"min_p": 0.0, "repetition_penalty": 1.0}
# These servers drop special tokens from the text; a `</think>` that is one would be missing.
_WITH_SPECIAL_TOKENS: dict[str, object] = {**_OFF, "skip_special_tokens": False}
FAULTS = {"lost": "lost (the server took them and answered only others)"}  # kind of failed attempt -> description
EXPLICIT = {"vllm": _WITH_SPECIAL_TOKENS, "sglang": _WITH_SPECIAL_TOKENS, "llamacpp": _OFF, "deepscaler": _OFF}


def check_server(client: OpenAIClient) -> dict[str, object]:
    """The server's metadata of the model. Raises EndpointError for a missing model or a context that is too short."""
    try:
        models = client.models()
    except EndpointError as error:
        if "HTTP 404" not in str(
            error
        ):  # some servers have no list; the first completion shows whether the model exists
            raise
        return {}
    listed = {str(m.get("id")): m for m in models}
    if listed and client.model not in listed:
        raise EndpointError(
            f"{client.endpoint.address} serves no model {client.model!r}; it serves {', '.join(sorted(listed))}. "
            "Give one of these as --model"
        )
    metadata = listed.get(client.model, {})
    context, budget = metadata.get("max_model_len"), client.params.max_completion_tokens
    if isinstance(context, int) and budget >= context:
        raise EndpointError(
            f"a budget of {counted(budget, 'token')} above the model's context: {client.endpoint.address} serves "
            f"{client.model!r} with {counted(context, 'token')} for prompt and completion together; lower "
            "--max-tokens, or serve it with more"
        )
    client.explicit = EXPLICIT.get(str(metadata.get("owned_by")), {})
    return {name: metadata[name] for name in ("id", "owned_by", "max_model_len", "root") if name in metadata}


def probe_sampling(client: OpenAIClient, question: str) -> list[str]:
    """Warnings about settings without effect. Raises EndpointError when the server refuses the probes.

    Sets `client.streaming` to False for a server that cannot stream.
    """
    short = {client.max_tokens_field: PROBE_TOKENS, "temperature": PROBE_TEMPERATURE, "top_p": 1.0}
    first = _first_probe(client, question, **short, seed=1)
    found = [
        f"{name} is not sent (client.omit): the server's own value applies, and no file records it"
        for name in sorted(client.omitted & MEANT)
    ]
    if not client.omitted & {"seed", "temperature"}:
        found += _seed_faults(client, question, short, first)
    found += _budget_faults(first)
    return found + _narrow_faults(client, question, short)


def _seed_faults(client: OpenAIClient, question: str, short: Mapping[str, object], first: Reply) -> list[str]:
    again = client.probe(question, **short, seed=1)
    other = client.probe(question, **short, seed=2)
    if first.text != again.text:
        return ["the same seed gave two different completions: the server ignores seeds, or is not deterministic"]
    if first.text == other.text:
        return ["two seeds gave the same completion at temperature 1.5: the server ignores seed or temperature"]
    return []


def _narrow_faults(client: OpenAIClient, question: str, short: Mapping[str, object]) -> list[str]:
    """Settings under which a single token is left to draw, and `n`."""
    params, found = client.params, []
    narrow: dict[str, dict[str, object]] = {}
    if params.temperature == 0:
        narrow["temperature = 0"] = {"temperature": 0.0}
    if params.top_p < 1 and params.temperature > 0:
        narrow["top_p = 0.000001"] = {"top_p": 1e-6}
    if params.top_k and params.temperature > 0:
        narrow["top_k = 1"] = {"top_k": 1}
    for name, changes in narrow.items():  # each leaves a single token, whatever the seed
        if client.omitted & changes.keys():
            continue
        texts = {client.probe(question, **{**short, **changes}, seed=seed).text for seed in (1, 2)}
        if len(texts) > 1:
            found.append(
                f"{name} gave different completions for two seeds: the server ignores {name.split()[0]}, or is not "
                "deterministic"
            )
    if "n" in client.omitted:
        return found
    try:
        several = client.probe(question, **short, seed=3, n=2)
    except EndpointError:
        several = None
    if several is not None and several.num_choices != 2:
        found.append("n = 2 gave one completion: the server ignores n (harmless here, one request is made per sample)")
    return found


def _first_probe(client: OpenAIClient, question: str, **changes: object) -> Reply:
    """A completion, streamed if the server supports it with token counts; else streaming is switched off."""
    if client.streaming:
        try:
            reply = client.probe(question, **changes)
        except EndpointError:
            reply = None  # refused; if streaming was not the cause, the next attempt raises
        if reply is not None and reply.streamed and reply.num_tokens is not None:
            return reply
        client.streaming = False
    return client.probe(question, **changes)


def _budget_faults(reply: Reply) -> list[str]:
    """Warnings from the length and finish reason of a completion with a budget of PROBE_TOKENS."""
    found, count = [], reply.num_tokens
    if reply.finish_reason is FinishReason.UNKNOWN:
        found.append("a completion came without a known finish reason: truncated completions cannot be detected")
    elif reply.finish_reason is FinishReason.STOP and count == PROBE_TOKENS:
        found.append(
            f"a completion of exactly {PROBE_TOKENS} tokens, the budget, has finish reason stop: the server may not "
            "report truncation"
        )
    too_long = len(reply.text) > PROBE_TOKENS * BYTES_PER_TOKEN if count is None else count > PROBE_TOKENS
    if too_long:
        made = counted(len(reply.text), "character") if count is None else str(count)
        found.append(f"asked for at most {PROBE_TOKENS} tokens, the server made {made}: it ignores the budget")
    return found


class ReplyMonitor:
    """Counts deviations in the replies and reports them as warnings at the end."""

    def __init__(self, client: OpenAIClient) -> None:
        self._client = client
        self._seen: Counter[str] = Counter()
        self._models: set[str] = set()

    def record(self, response: ChatResponse) -> None:
        reply, budget = response.reply, self._client.params.max_completion_tokens
        self._seen["replies"] += 1
        self._seen["choices"] += reply.num_choices != 1
        self._seen["no finish reason"] += reply.finish_reason is FinishReason.UNKNOWN
        self._models.add(reply.model)
        if reply.num_tokens is None:
            self._seen["no usage"] += 1
        elif reply.num_tokens > budget:
            self._seen["over budget"] += 1
        elif reply.finish_reason is FinishReason.LENGTH and reply.num_tokens < budget:
            self._seen["truncated early"] += 1
        elif reply.finish_reason is FinishReason.STOP and reply.num_tokens == budget:
            self._seen["ended at the budget"] += 1

    def warnings(self) -> list[str]:
        total, seen = self._seen["replies"], self._seen
        descriptions = {
            "choices": "held several completions though one was requested; the first was taken",
            "no finish reason": "had no known finish reason: whether they were truncated at the budget is unknown",
            "no usage": "had no token count; length statistics leave them out",
            "over budget": "were longer than the budget: the server ignores or changes it",
            "ended at the budget": "have exactly the length of the budget and finish reason stop",
            "truncated early": "were truncated before the budget: the server lowers it, or its context is too short",
        }
        found = [f"{seen[kind]} of {total} replies {words}" for kind, words in descriptions.items() if seen[kind]]
        others = sorted(self._models - {"", self._client.model})
        if others:
            found.append(f"replies name the model {', '.join(others)}, not {self._client.model}")
        return found + [
            f"{counted(count, 'attempt')} failed, each repeated: {FAULTS.get(kind, kind)}"
            for kind, count in sorted(self._client.faults.items())
        ]
