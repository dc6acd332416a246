"""One vLLM server as a sampler: token ids in, token ids out, weights by files with digests read back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from deepscaler.engines.nonfinite import check_finite
from deepscaler.engines.vllm_server.client import ServerClient, version_spans
from deepscaler.engines.vllm_server.lifecycle import Lifecycle, Phase
from deepscaler.engines.vllm_shared.requests import check_lengths, is_narrowed, refuse_stop_strings, seed_of
from deepscaler.modeling.published_files import FileWeights, differing_tensors
from deepscaler.modeling.weights import combined_digest
from deepscaler.protocols import PublishedWeights
from deepscaler.types import FinishReason, FloatArray, Request, Rollout, RunError, SamplingParams, WeightsInfo

LOAD_LIMIT_S = 1800.0
DRAIN_LIMIT_S = 4 * 3600.0  # `pause` with mode wait: the longest completion
NAMED = 4  # tensors in a message
RESETS, RESET_WAIT_S = 20, 0.5  # blocks of aborted requests are held for a moment
NO_LOGPROB = -9999.0  # what vLLM sends for NaN and infinity
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.CANCELLED}
PauseMode = Literal["keep", "wait", "abort"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Of one server.

    stop_ids: end a completion. dtype: of the weights. context, max_tokens: most tokens of prompt and completion, of the
    model and of the server. untruncated: whether it reports log-probabilities before top-k and top-p.
    interrupt: what happens to completions under way while weights are loaded: `keep` goes on with the new ones, `wait`
    finishes first, `abort` samples them again with the new ones. sleep_level: of vLLM, while the learner has the GPU;
    0 stays awake.
    """

    stop_ids: frozenset[int]
    dtype: str
    context: int
    max_tokens: int
    untruncated: bool = True
    interrupt: PauseMode = "keep"
    sleep_level: int = 0


class VllmServerEngine:
    """`load_weights` may be called while a generation is open, from another thread.

    is_cancelled: once true, a generation yields unfinished completions as they are (`FinishReason.CANCELLED`) and ends.
    """

    def __init__(
        self, client: ServerClient, settings: ServerSettings, is_cancelled: Callable[[], bool] = lambda: False
    ) -> None:
        self._client, self._settings = client, settings
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
        """Load a version from its files and read back what the server samples from.

        Raises ValueError for weights that are no files or not the model's, RunError when the server then holds others:
        it never samples again.
        """
        if not isinstance(weights, FileWeights):
            raise ValueError("a vLLM server loads weights from files (FilePublisher writes them)")
        wanted = weights.tensor_digests(self._settings.dtype)
        interrupted = self._begin_update()
        self._life.begin("update")
        try:
            held = self._load(weights)
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
        self.version, self._num_bytes = weights.version, _num_bytes(weights)
        self._resume()
        return WeightsInfo(weights.version, combined_digest(held), self._settings.dtype, self._num_bytes)

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
            choice = _only_choice(answer, self._client)
            # A completion from before an abort may arrive after it, finished: it is sampled again like the others.
            aborted = choice.get("finish_reason") == "abort" or aborts != self._aborts
            again = aborted and not self._is_cancelled()
            yield wanted[position], None if again else self._rollout(*wanted[position], choice, version, params)

    def _rollout(
        self, request: Request, sample_index: int, choice: Mapping[str, Any], version: int, params: SamplingParams
    ) -> Rollout:
        reason = _FINISH.get(choice.get("finish_reason", ""))
        if reason is None:
            raise self._client.failure(
                f"ended a completion of problem {request.problem_id} with {choice.get('finish_reason')!r}"
            )
        ids = np.array(choice["token_ids"], dtype=np.int32)
        logprobs = _logprobs(choice, ids.tolist(), self._client)
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

    def _load(self, weights: FileWeights) -> dict[str, str]:
        return self._digests(
            self._client.rpc("deepscaler_load", str(weights.directory.resolve()), limit_s=LOAD_LIMIT_S)
        )

    def _digests(self, answer: Mapping[str, Any]) -> dict[str, str]:
        if "error" in answer:
            raise self._client.failure(f"could not load weights: {answer['error']}")
        return dict(answer["digests"])

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


def sampling_body(
    params: SamplingParams, stop_ids: frozenset[int], request: Request, sample_index: int
) -> dict[str, Any]:
    """vLLM's `SamplingParams` of one completion, as JSON."""
    num_begun = 0 if request.begun is None else request.begun.num_tokens
    return {
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "max_tokens": params.max_completion_tokens - num_begun,
        "seed": seed_of(params, request.problem_id, sample_index, num_begun),
        "stop_token_ids": sorted({*stop_ids, *params.stop_token_ids}),
        "ignore_eos": True,  # only the given ids stop
        "logprobs": 0,
        "detokenize": False,
    }


def _only_choice(answer: Mapping[str, Any], client: ServerClient) -> Mapping[str, Any]:
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], Mapping):
        raise client.failure(f"answered a request with {str(answer)[:200]}, which is no completion")
    return choices[0]


def _logprobs(choice: Mapping[str, Any], ids: Sequence[int], client: ServerClient) -> FloatArray:
    """Raises RunError for values that are not finite, VllmServerError for those of other tokens."""
    content = (choice.get("logprobs") or {}).get("content") or []
    if [token.get("token_id") for token in content] != list(ids):
        raise client.failure("reported log-probabilities of other tokens than it sampled")
    values = np.array([token["logprob"] for token in content], dtype=np.float32)
    check_finite(torch.from_numpy(np.where(values <= NO_LOGPROB, np.nan, values)))
    return values


def _num_bytes(weights: FileWeights) -> int:
    return sum((weights.directory / name).stat().st_size for name in weights.files)
