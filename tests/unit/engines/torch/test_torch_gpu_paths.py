"""What decoding on a GPU does, tried on CPU: exactness, fixed addresses, few transfers, memory given back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.cpu.matmul import Matmul
from deepscaler.engines.torch import flash_attention
from deepscaler.engines.torch.decoder import Decoder
from deepscaler.engines.torch.engine import TorchEngine
from deepscaler.engines.torch.scheduler import Sequence
from deepscaler.modeling.families.registry import FUSED
from deepscaler.modeling.positions import cast_parameters
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import Request, Rollout, TrainSample
from engine_runs import PARAMS, assert_equal, requests, run

NEVER: frozenset[int] = frozenset()
CPU = torch.device("cpu")
BLOCK_BYTES = 64 * 2 * 2 * 2 * 8 * 4  # of the tiny model in float32


def as_on_gpu(model: Any, backend: str = "paged", max_bytes: int = 2**24, **settings: Any) -> TorchEngine:
    """An engine with the cache and the step of a GPU."""
    return TorchEngine(model, stop_ids=NEVER, attention_backend=backend, max_cache_bytes=max_bytes, **settings)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash attention as torch describes it, in plain arithmetic."""

    def reference(*arguments: Tensor) -> tuple[Tensor, Tensor]:
        query, keys, _, first, used = arguments
        assert first.dtype == used.dtype == torch.int32 and query.dtype == keys.dtype
        assert used.min() >= 1 and used.max() <= keys.shape[1] and first.max() < keys.shape[0] * keys.shape[1]
        out, lse = flash_attention.reference_blocks(*arguments)
        return out.to(query.dtype), lse

    monkeypatch.setattr(flash_attention, "flash_blocks", reference)


@pytest.mark.parametrize("family", [*FUSED, "gemma3_text"])  # and transformers' own layers, with a window
@pytest.mark.parametrize("blocks", [100, 9])
def test_flash_attention_over_blocks_gives_the_same_completions(
    tiny_model: Callable[..., Any], flash: None, family: str, blocks: int
) -> None:
    """Prompts of more than a block, which is shared; in 9 blocks of 128 not all find room at once."""
    model = tiny_model(family)
    model.config.max_position_embeddings = 512
    wanted = [replace(r, prompt_ids=np.tile(r.prompt_ids, 8)) for r in requests(2)]  # 160 and 216 tokens
    params = replace(PARAMS, max_completion_tokens=70)
    expected = run(TorchEngine(model, stop_ids=NEVER), wanted, params)
    engine = as_on_gpu(model, "flash", 2 * BLOCK_BYTES * blocks)
    assert_equal(run(engine, wanted, params), expected)
    assert engine.cache.allocator.num_used == engine.cache.num_reserved
    assert engine.cache.allocator.peak <= 1 + 2 * 2 + 8 * 2, "full blocks of a prompt are there once"


def test_the_flash_operator_of_this_torch_has_the_parameters_it_is_called_with() -> None:
    schema = str(torch.ops.aten._flash_attention_forward.default._schema)
    names = ["query", "key", "value", "cum_seq_q", "cum_seq_k", "max_q", "max_k", "dropout_p", "is_causal"]
    parameters = [part.split()[-1].split("=")[0] for part in schema.split("(", 1)[1].split(")")[0].split(", ")]
    assert parameters[:10] == [*names, "return_debug_mask"] and {"scale", "seqused_k"} <= set(parameters)
    assert not flash_attention.flash_works(CPU, torch.bfloat16, 12, 2, 128)


def test_rows_that_leave_do_not_leave_gaps_to_read(
    tiny_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One long sequence after 40 short ones: a step soon reads its blocks, not those that the others had."""
    monkeypatch.setattr("deepscaler.engines.torch.paged_cache.SLACK", 2)
    engine = as_on_gpu(tiny_model(), max_active=64)
    expected = TorchEngine(tiny_model(), stop_ids=NEVER, max_active=64)
    spans, limits = [], [10] * 40 + [90]
    found = []
    for each in (engine, expected):
        scheduler = each.open_scheduler(128)
        sequences = [
            Sequence(Request(f"p{i}", np.arange(2, 9, dtype=np.int32), 1), 0, replace(PARAMS, max_completion_tokens=n))
            for i, n in enumerate(limits)
        ]
        for sequence in sequences:
            scheduler.add(sequence)
        while scheduler.has_unfinished:
            scheduler.step()
            spans.append(each.cache.allocator.span)
        found.append([s.tokens for s in sequences])
    assert found[0] == found[1]
    assert max(spans[:90]) > 40 and spans[15] <= 4


def test_memory_is_given_back_and_taken_again(tiny_model: Callable[..., Any]) -> None:
    model, wanted = tiny_model(), requests(3)
    engine = as_on_gpu(model)
    expected = run(TorchEngine(model, stop_ids=NEVER), wanted)
    assert_equal(run(engine, wanted), expected)
    assert engine.cache.allocated_bytes > 0
    engine.release_memory()
    assert engine.cache.allocated_bytes == 0
    engine.release_memory()
    assert_equal(run(engine, wanted), expected)


def test_an_unfinished_generation_ends_when_its_memory_is_wanted(tiny_model: Callable[..., Any]) -> None:
    engine = as_on_gpu(tiny_model(), max_active=3)
    next(engine.generate(requests(2), PARAMS))
    engine.release_memory()
    assert engine.cache.allocated_bytes == 0 and engine.cache.allocator.num_used == engine.cache.num_reserved


def test_padded_rows_stay_inside_blocks_of_another_size(tiny_model: Callable[..., Any]) -> None:
    """Many rows in blocks of 64, then few in blocks of 8 with the same padded sizes."""
    model = tiny_model()
    engine, expected = as_on_gpu(model), TorchEngine(model, stop_ids=NEVER)
    run(engine, requests(4, 2))
    engine.cache.reset(8)
    engine.cache.choose_block_tokens = lambda longest: 8  # type: ignore[method-assign]
    assert_equal(run(engine, requests(3, 2)), run(expected, requests(3, 2)))


class _Reads(TorchDispatchMode):
    """Addresses of the tensors that operations read and did not make themselves, in order."""

    def __init__(self) -> None:
        super().__init__()
        self._made: list[Tensor] = []  # kept, so that no address is used twice
        self.addresses: list[int] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = {x.untyped_storage().data_ptr() for x in self._made}
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        self.addresses += [x.data_ptr() for x in read if x.untyped_storage().data_ptr() not in made]
        out = function(*args, **(kwargs or {}))
        outside = {x.untyped_storage().data_ptr() for x in read} - made
        self._made += [x for x in tree_leaves(out) if x.untyped_storage().data_ptr() not in outside]
        return out


class _NoAttention:
    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor, window: int | None = None) -> Tensor:
        return query.flatten(1)


def test_everything_a_captured_step_reads_stays_where_it_is(tiny_model: Callable[..., Any]) -> None:
    decoder, tokens = Decoder(tiny_model("qwen3"), Matmul()), torch.tensor([3, 4])

    def addresses() -> list[int]:
        decoder.refresh(64)
        with torch.inference_mode(), _Reads() as reads:
            decoder.logits(tokens, tokens, _NoAttention())
        return reads.addresses

    before = addresses()
    kept = [torch.empty(1) for _ in range(64)]  # would take the place of what was freed
    assert addresses() == before and len(set(before)) > 2 * 10 and kept


class _Copies(TorchDispatchMode):
    """Counts what would be transfers on a GPU: copies between tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += function.__name__.startswith("copy_")
        return function(*args, **(kwargs or {}))


@pytest.mark.perf
def test_a_step_sends_one_piece_and_two_when_blocks_change(tiny_model: Callable[..., Any]) -> None:
    engine = as_on_gpu(tiny_model())
    scheduler = engine.open_scheduler(128)
    for request in requests(3, 1):
        scheduler.add(Sequence(request, 0, PARAMS))
    scheduler.step()
    sent = []
    for _ in range(60):
        with _Copies() as copies:
            scheduler.step()
        sent.append(copies.count)
    assert set(sent) == {1, 2} and sent.count(2) <= 3
    scheduler.close()


def as_samples(rollouts: list[Rollout]) -> list[TrainSample]:
    return [
        TrainSample(r.prompt_ids, r.completion_ids, r.rollout_logprobs, 1.0, np.ones(r.num_tokens, np.float32), 0)
        for r in rollouts
    ]


def difference(tiny_model: Callable[..., Any], *, float32_head: bool, backend: str = "paged") -> np.ndarray:
    """Learner minus engine log-probabilities: bfloat16 against float32 weights with mixed precision."""
    half = cast_parameters(tiny_model("qwen3"), torch.bfloat16)
    engine = as_on_gpu(half, backend, float32_head=float32_head)
    rollouts = list(run(engine, requests(4)).values())
    computer = GradientComputer(
        tiny_model("qwen3"),
        None,
        AlgorithmSection(),
        TrainingSection(),
        temperature=PARAMS.temperature,
        autocast=True,
        float32_head=float32_head,
    )
    pairs = zip(computer.logprobs(as_samples(rollouts)), rollouts, strict=True)
    return np.concatenate([values - r.rollout_logprobs for values, r in pairs])


@pytest.mark.parametrize("float32_head", [False, True])
def test_in_bfloat16_engine_and_learner_differ_by_rounding(tiny_model: Callable[..., Any], float32_head: bool) -> None:
    """Weights eight times as large as usual make rounding visible: logits reach 40."""
    found = np.abs(difference(tiny_model, float32_head=float32_head))
    assert 0 < found.mean() < 0.011 and np.quantile(found, 0.99) < 0.05


def test_flash_attention_in_bfloat16_is_as_close(tiny_model: Callable[..., Any], flash: None) -> None:
    assert np.abs(difference(tiny_model, float32_head=True, backend="flash")).mean() < 0.011
