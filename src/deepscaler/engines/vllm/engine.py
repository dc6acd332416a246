"""vLLM as an engine in this process: token ids in, token ids out.

Tested with vLLM 0.32.0 on CPU (`make test-vllm`). Features that depend on the release are probed in `loading.py` and
`sampling.py`, and refused or reported where they are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deepscaler.engines.vllm.installation import require_vllm
from deepscaler.engines.vllm.loading import start_vllm
from deepscaler.engines.vllm.sampling import reported_logprobs, vllm_params
from deepscaler.engines.vllm.weights import held_digest, unsigned_digest
from deepscaler.engines.vllm_shared.in_server.deepscaler_vllm.held_weights import check_given, repack_tied_head
from deepscaler.engines.vllm_shared.in_server.deepscaler_vllm.sampler import mask_ids, report_untruncated
from deepscaler.engines.vllm_shared.model_files import Limits
from deepscaler.engines.vllm_shared.requests import check_lengths, refuse_stop_strings
from deepscaler.modeling.positions import model_context
from deepscaler.modeling.weights import dtype_name
from deepscaler.observability import liveness
from deepscaler.protocols import PublishedWeights
from deepscaler.types import FinishReason, Request, Rollout, RunError, SamplingParams, WeightsInfo

_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


class VllmEngine:
    """Samples from the model in a directory. `load_weights` replaces all weights, under transformers' names.

    max_active: sequences decoded at once.
    max_tokens: most tokens of prompt and completion together, by default the model's context.
    max_cache_bytes: upper limit of the key-value cache; by default 60% of the free memory on CPU, vLLM's own choice on
        a GPU.
    forbidden_ids: ids without a token (head.forbid_ids): never sampled, and excluded from the log-probabilities.
    is_cancelled: called at every step; once true, unfinished sequences are dropped.
    """

    def __init__(
        self,
        directory: Path,
        *,
        stop_ids: frozenset[int],
        dtype: torch.dtype = torch.float32,
        max_active: int = 256,
        max_tokens: int | None = None,
        max_cache_bytes: int | None = None,
        forbidden_ids: Sequence[int] = (),
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Raises ValueError without vLLM, or when one sequence does not fit into the cache."""
        require_vllm()
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(directory)
        self.dtype, self.version = dtype, 0
        self.context_limit = model_context(config)
        self._max_tokens = min(self.context_limit, max_tokens or self.context_limit)
        self._stop_ids = stop_ids
        self._is_cancelled = is_cancelled
        self._published_digests: dict[str, str] = {}
        self._published_bytes = 0
        self._intact = True
        self._generation = 0
        limits = Limits(max_active, self._max_tokens, max_cache_bytes)
        self._engine, runner = start_vllm(directory, config, dtype, limits)
        self._model: Any = runner.get_model()
        mask_ids(self._model, forbidden_ids)
        self._untruncated = report_untruncated(runner)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> Iterator[Rollout]:
        """Yield rollouts as they finish; one generation at a time.

        With top-k or top-p on a release whose sampler cannot be read before them, `rollout_logprobs` are NaN: unknown.
        Raises ValueError when a prompt and the budget exceed the model's context or the engine's limit, RunError for
        logits that are not finite, and while another generation is open.
        """
        self._check(requests, params)
        waiting: dict[str, tuple[Request, int]] = {}
        self._generation += 1
        try:
            for request in requests:
                for index in range(request.first_sample_index, request.first_sample_index + request.num_samples):
                    name = f"{self._generation}/{len(waiting)}"
                    waiting[name] = (request, index)
                    prompt = {"prompt_token_ids": request.prompt_ids.tolist()}
                    sampling = vllm_params(params, self._stop_ids, request.problem_id, index)
                    self._engine.add_request(name, prompt, sampling)
            while waiting and not self._is_cancelled():
                liveness.beat()
                for output in self._step():
                    if output.finished and output.request_id in waiting:
                        yield self._rollout(*waiting.pop(output.request_id), output.outputs[0], params)
        finally:
            if waiting and self._intact:
                self._engine.abort_request(list(waiting))

    def load_weights(self, weights: PublishedWeights) -> WeightsInfo:
        """Take over all weights, cast to the engine's dtype, and read back what sampling uses.

        Raises KeyError for an unknown name, ValueError for weights that are missing or of another shape, RunError while
        a generation is open. What was computed with the old ones is forgotten.
        """
        self._check_usable()
        dtype = dtype_name(self.dtype)
        given = dict(weights.tensors(dtype))
        check_given({name: tuple(weight.shape) for name, weight in given.items()}, self._model)
        self._intact = False  # a failure half-way leaves a mixture
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(given.items())})
        repack_tied_head(self._model)
        if not self._engine.reset_prefix_cache():
            raise RunError(
                "vLLM did not drop its cache of prompts computed with the old weights; start the engine anew"
            )
        self._published_digests = {unsigned_digest(given.items()): weights.digest(dtype)}
        self._published_bytes = sum(weight.nbytes for weight in given.values())
        self._intact, self.version = True, weights.version
        return self.weights_info()

    def weights_info(self) -> WeightsInfo:
        """Raises RunError when the engine does not sample from one set of weights."""
        self._check_usable()
        digest = held_digest(self._model)
        published = self._published_digests.get(digest, digest)
        return WeightsInfo(self.version, published, dtype_name(self.dtype), self._published_bytes)

    def release_memory(self) -> None:
        """Nothing: vLLM keeps its cache for as long as it lives."""

    def close(self) -> None:
        """Free the memory; the engine cannot be used afterwards."""
        self._intact = False
        self._engine.engine_core.shutdown()

    def _step(self) -> list[Any]:
        try:
            return self._engine.step()
        except RuntimeError as error:
            self._intact = False
            raise RunError(f"vLLM failed while sampling: {error}") from error

    def _rollout(self, request: Request, sample_index: int, completion: Any, params: SamplingParams) -> Rollout:
        reason = _FINISH.get(completion.finish_reason)
        if reason is None:
            raise RunError(f"vLLM ended a completion of problem {request.problem_id} with {completion.finish_reason!r}")
        return Rollout(
            problem_id=request.problem_id,
            sample_index=sample_index,
            prompt_ids=request.prompt_ids,
            completion_ids=np.array(completion.token_ids, dtype=np.int32),
            rollout_logprobs=reported_logprobs(completion, params, untruncated=self._untruncated),
            finish_reason=reason,
            policy_version=self.version,
        )

    def _check_usable(self) -> None:
        if not self._intact:
            raise RunError("this vLLM engine was closed, or loading weights into it failed; start a new one")
        if self._engine.has_unfinished_requests():
            raise RunError("a generation of this vLLM engine is still open; finish or close it first")

    def _check(self, requests: Sequence[Request], params: SamplingParams) -> None:
        self._check_usable()
        refuse_stop_strings(params)
        check_lengths(requests, params, context=self.context_limit, limit=self._max_tokens)
