"""One vLLM server as a sampler: token ids in, token ids out, weights with digests read back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from deepscaler.engines.vllm_server.client import ServerClient, version_spans
from deepscaler.engines.vllm_server.completion import FINISH, logprobs_of, only_choice, sampling_body
from deepscaler.engines.vllm_server.lifecycle import Lifecycle, Phase
from deepscaler.engines.vllm_server.transfer_choice import Choice, WeightTransfer
from deepscaler.engines.vllm_server.weight_transfer import WeightTransferClient
from deepscaler.engines.vllm_shared.requests import check_lengths, is_narrowed, refuse_stop_strings
from deepscaler.modeling.host_weights import HostWeights
from deepscaler.modeling.published_files import FileWeights
from deepscaler.modeling.weights import combined_digest, differing_tensors
from deepscaler.protocols import PublishedWeights
from deepscaler.types import Request, Rollout, RunError, SamplingParams, WeightsInfo

LOAD_LIMIT_S = 1800.0
DRAIN_LIMIT_S = 4 * 3600.0  # `pause` with mode wait: the longest completion
NAMED = 4  # tensors in a message
RESETS, RESET_WAIT_S = 20, 0.5  # blocks of aborted requests are held for a moment
PauseMode = Literal["keep", "wait", "abort"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Of one server.

    stop_ids: end a completion. dtype: of the weights. context, max_tokens: most tokens of prompt and completion, of the
    model and of the server. untruncated: whether it reports log-probabilities before top-k and top-p.
    interrupt: what happens to completions under way while weights are loaded: `keep` goes on with the new ones, `wait`
    finishes first, `abort` samples them again with the new ones. sleep_level: of vLLM, while the learner has the GPU;
    0 stays awake. weight_transfer: which way published weights may take. num_gpus: of the server.
    """

    stop_ids: frozenset[int]
    dtype: str
    context: int
    max_tokens: int
    untruncated: bool = True
    interrupt: PauseMode = "keep"
    sleep_level: int = 0
    weight_transfer: WeightTransfer = "files"
    num_gpus: int = 1


class VllmServerEngine:
    """`load_weights` may be called while a generation is open, from another thread.

    is_cancelled: once true, a generation yields unfinished completions as they are (`FinishReason.CANCELLED`) and ends.
    transfer: vLLM's weight transfer, where it can be used; without it weights come as files. choice: why.
    """

    def __init__(
        self,
        client: ServerClient,
        settings: ServerSettings,
        is_cancelled: Callable[[], bool] = lambda: False,
        *,
        transfer: WeightTransferClient | None = None,
        choice: Choice = Choice("files"),
    ) -> None:
        self._client, self._settings = client, settings
        self._transfer, self._choice = transfer, choice
        self._cancelled_outside = is_cancelled
        self._interrupted = threading.Event()
        self._life = Lifecycle(client.name)
        self._lock = threading.Lock()
        self._open = 0  # generations
        self._aborts = 0
        self._num_bytes = 0
        self.version = 0

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield rollouts as they finish. With top-k or top-p `rollout_logprobs` are NaN where the server cannot report
        those before them.

        Raises ValueError when a prompt and the budget exceed the model's context or the server's limit, RunError for
        logits that are not finite, ServerLostError when the server dies.
        """
        refuse_stop_strings(params)
        check_lengths(requests, params, context=self._settings.context, limit=self._settings.max_tokens)
        self._life.require_sampling()
        wanted = [
            (request, index)
            for request in requests
            for index in range(request.first_sample_index, request.first_sample_index + request.num_samples)
        ]
        self._interrupted.clear()
        with self._lock:
            self._open += 1
        try:
            while wanted:
                again: list[tuple[Request, int]] = []
                for one, rollout in self._round(wanted, params):
                    if rollout is None:
                        again.append(one)
                    else:
                        yield rollout
                wanted = again  # aborted by an update of the weights
        finally:
            with self._lock:
                self._open -= 1

    def interrupt(self) -> None:
        """End the generation under way; it yields unfinished completions as they are."""
        self._interrupted.set()

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """Load a version from its files, or send it, and read back what the server samples from.

        Raises ValueError for weights that this server cannot get or that are not the model's, RunError when the server
        then holds others, or where a phase of the update failed: it never samples again.
        """
        if not isinstance(weights, FileWeights | HostWeights):
            raise ValueError("a vLLM server takes weights as files or from host memory (WeightPublisher makes them)")
        wanted = weights.tensor_digests(self._settings.dtype)
        load = self._loading(weights)
        interrupted = self._begin_update()
        self._life.begin("update")
        try:
            held = load()
            if differing := differing_tensors(weights, held, self._settings.dtype):
                raise RunError(
                    f"{self._client.name} holds other weights than version {weights.version} in "
                    f"{len(differing)} of {len(wanted)} tensors ({', '.join(differing[:NAMED])}); it does not sample "
                    "any more"
                )
            self._client.post("/update_weight_version", {"new_version": str(weights.version)})
            self._forget_prompts(while_running=interrupted)
        except BaseException:
            self._life.end(Phase.BROKEN)
            raise
        self.version, self._num_bytes = weights.version, weights.num_bytes
        self._resume()
        return WeightsInfo(weights.version, combined_digest(held), self._settings.dtype, self._num_bytes)

    def weight_transfer(self) -> Choice:
        """Which way published weights take into this server."""
        return self._choice

    def weights_info(self) -> WeightsInfo:
        """Read back again. Weights with zeros of negative sign have another digest here than `load_weights` reports."""
        held = self._digests(self._client.rpc("deepscaler_digests", limit_s=LOAD_LIMIT_S))
        return WeightsInfo(self.version, combined_digest(held), self._settings.dtype, self._num_bytes)

    def release_memory(self) -> None:
        """Sleep, where learner and server share a GPU; the next `load_weights` wakes it."""
        if self._settings.sleep_level and self._life.phase is Phase.RUNNING:
            level = self._settings.sleep_level
            self._life.begin("sleep", level=level)
            self._client.post(f"/sleep?level={level}&mode=abort")

    def close(self) -> None:
        self._life.end(Phase.CLOSED)
        if self._transfer is not None:
            self._transfer.close()
        self._client.close()

    def _is_cancelled(self) -> bool:
        return self._interrupted.is_set() or self._cancelled_outside()

    def _round(
        self, wanted: Sequence[tuple[Request, int]], params: SamplingParams
    ) -> Iterator[tuple[tuple[Request, int], Rollout | None]]:
        """Ask for all; None for one that an update aborted."""
        sent: dict[int, tuple[int, int]] = {}

        def body(position: int) -> dict[str, Any]:
            sent[position] = (self._aborts, self.version)
            request, index = wanted[position]
            begun = [] if request.begun is None else request.begun.completion_ids.tolist()
            return {
                "token_ids": [*request.prompt_ids.tolist(), *begun],
                "sampling_params": sampling_body(params, self._settings.stop_ids, request, index),
            }

        bodies = [lambda position=position: body(position) for position in range(len(wanted))]
        for position, answer in self._client.completions(bodies, self._is_cancelled):
            aborts, version = sent[position]
            choice = only_choice(answer, self._client)
            # A completion from before an abort may arrive after it, finished: it is sampled again like the others.
            aborted = choice.get("finish_reason") == "abort" or aborts != self._aborts
            again = aborted and not self._is_cancelled()
            yield wanted[position], None if again else self._rollout(*wanted[position], choice, version, params)

    def _rollout(
        self, request: Request, sample_index: int, choice: Mapping[str, Any], version: int, params: SamplingParams
    ) -> Rollout:
        reason = FINISH.get(choice.get("finish_reason", ""))
        if reason is None:
            raise self._client.failure(
                f"ended a completion of problem {request.problem_id} with {choice.get('finish_reason')!r}"
            )
        ids = np.array(choice["token_ids"], dtype=np.int32)
        logprobs = logprobs_of(choice, ids.tolist(), self._client)
        if is_narrowed(params) and not self._settings.untruncated:
            logprobs = np.full_like(logprobs, np.nan)
        (_, first), *later = version_spans(choice.get("weight_versions"), version)
        begun = request.begun
        if begun is not None:
            ids = np.concatenate([begun.completion_ids, ids])
            logprobs = np.concatenate([begun.rollout_logprobs, logprobs])
            later = [(start + begun.num_tokens, newer) for start, newer in later]
        return Rollout(
            problem_id=request.problem_id,
            sample_index=sample_index,
            prompt_ids=request.prompt_ids,
            completion_ids=ids,
            rollout_logprobs=logprobs,
            finish_reason=reason,
            policy_version=first,
            later_versions=tuple(later),
        )

    def _begin_update(self) -> bool:
        """Nothing is computed from here on; returns whether a generation is open."""
        with self._lock:
            interrupted = self._open > 0
        if self._life.phase is Phase.ASLEEP:
            self._life.begin("wake")
            self._client.post("/wake_up?tags=weights")
            return interrupted
        mode: PauseMode = self._settings.interrupt if interrupted else "abort"
        self._life.begin("pause")
        if mode == "abort":  # before it is asked: what arrives from here on is sampled again
            with self._lock:
                self._aborts += 1
        self._client.post(f"/pause?mode={mode}", limit_s=DRAIN_LIMIT_S if mode == "wait" else LOAD_LIMIT_S)
        return interrupted

    def _loading(self, weights: FileWeights | HostWeights) -> Callable[[], dict[str, str]]:
        """A function that loads them and returns the digests that the server reports.

        Raises ValueError where that cannot succeed, before the server is told of anything.
        """
        if isinstance(weights, FileWeights):
            directory = str(weights.directory.resolve())
            return lambda: self._digests(self._client.rpc("deepscaler_load", directory, limit_s=LOAD_LIMIT_S))
        transfer = self._transfer
        if transfer is None:
            raise ValueError(f"{self._client.name} takes weights as files only: {self._choice.reason or 'as was set'}")
        transfer.check(weights)

        def send() -> dict[str, str]:
            transfer.send(weights)
            return self._digests(self._client.rpc("deepscaler_digests", limit_s=LOAD_LIMIT_S))

        return send

    def _digests(self, answers: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Of all workers together."""
        held: dict[str, str] = {}
        for answer in answers:
            if "error" in answer:
                raise self._client.failure(f"could not load weights: {answer['error']}")
            held |= answer["digests"]
        return held

    def _forget_prompts(self, *, while_running: bool) -> None:
        """Drop what was computed with the old weights. while_running: of completions under way as well."""
        query = "?reset_running_requests=true" if while_running else ""
        for _ in range(RESETS):
            if self._client.post(f"/reset_prefix_cache{query}")["success"]:
                return
            time.sleep(RESET_WAIT_S)
        raise self._client.failure("did not drop its cache of prompts computed with the old weights")

    def _resume(self) -> None:
        if self._settings.sleep_level and self._client.get("/is_sleeping")["is_sleeping"]:
            self._client.post("/wake_up?tags=kv_cache")
        self._life.begin("resume")
        if self._client.get("/is_paused")["is_paused"]:
            self._client.post("/resume")
