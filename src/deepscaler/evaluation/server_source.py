"""Completions that a server makes. Apart from `sources`, because its client needs aiohttp, which training does not."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

from deepscaler.data.prompt_format import PromptFormat
from deepscaler.engines.openai.client import ChatRequest, OpenAIClient, request_seed
from deepscaler.engines.openai.probe import ReplyMonitor
from deepscaler.evaluation.completions import Completion, Key, Plan
from deepscaler.observability.counts import counted
from deepscaler.types import RunError


class ServerSource:
    """Completions of an OpenAI-compatible server, which applies the chat template itself.

    found: what probing it showed. metadata: what it says about the model.
    """

    def __init__(
        self,
        client: OpenAIClient,
        prompt_format: PromptFormat,
        found: Sequence[str] = (),
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        self._client, self._found = client, list(found)
        self.metadata: Mapping[str, object] = metadata or {}
        self._prompt_format = prompt_format
        self._monitor = ReplyMonitor(client)

    def complete(self, plan: Plan, wanted: Sequence[Key]) -> Generator[Completion, None, None]:
        """First samples of all problems first, so that the running estimate is of the whole suite.

        Raises RunError at the end when some samples could not be obtained.
        """
        seed = self._client.params.seed
        requests = (self._request(plan, key, seed) for key in sorted(wanted, key=lambda k: k.sample_index))
        for response in self._client.complete(requests):
            self._monitor.record(response)
            key, reply = response.request.key, response.reply
            assert isinstance(key, Key)
            seed_used = None if "seed" in self._client.omitted else response.request.seed
            yield Completion(
                key, reply.text, None, reply.num_tokens, reply.finish_reason, seed_used, response.latency_s
            )
        if self._client.unfinished:
            key, why = self._client.unfinished[0]
            raise RunError(
                f"{counted(len(self._client.unfinished), 'sample')} could not be obtained, the first of them {key}: "
                f"{why}. All others are kept; the same command asks for the missing ones again"
            )

    def _request(self, plan: Plan, key: Key, seed: int) -> ChatRequest:
        problem = plan.problem(key)
        question, earlier = self._prompt_format.question(problem), self._prompt_format.opened(problem.earlier)
        return ChatRequest(key, question, request_seed(seed, *key), earlier)

    def warnings(self) -> list[str]:
        return [*self._found, *self._monitor.warnings()]
