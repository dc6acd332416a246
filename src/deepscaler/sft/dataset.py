"""Traces as the samples of supervised updates, in the order of each epoch."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from deepscaler.cluster.model_directory import ModelDirectory
from deepscaler.config.supervised import SftRecipe
from deepscaler.data.trace_encoding import EncodedTrace, TraceEncoder
from deepscaler.data.traces import Trace, load_traces
from deepscaler.observability.counts import counted
from deepscaler.randomness import generator
from deepscaler.training.cross_entropy import supervised_sample
from deepscaler.types import TrainSample

KEPT_OUT = "kept out"  # what the draw of the validation traces is keyed with


@dataclass(frozen=True, slots=True)
class Counts:
    """num_sequences: a conversation whose turns need prompts of their own has one for each.

    num_trained_tokens: of the assistant. num_dropped, num_truncated: sequences above the longest allowed.
    """

    num_traces: int
    num_sequences: int
    num_tokens: int
    num_trained_tokens: int
    longest_tokens: int
    num_dropped: int
    num_truncated: int

    def words(self) -> str:
        parts = [f"{counted(self.num_traces, 'trace')}"]
        if self.num_sequences + self.num_dropped != self.num_traces:
            parts.append(counted(self.num_sequences, "sequence"))
        share = self.num_trained_tokens / max(1, self.num_tokens)
        parts.append(f"{counted(self.num_tokens, 'token')}, {share:.0%} of them the assistant's")
        parts.append(f"the longest has {self.longest_tokens}")
        parts += [f"{self.num_dropped} dropped as too long"] if self.num_dropped else []
        parts += [f"{self.num_truncated} truncated"] if self.num_truncated else []
        return "; ".join(parts)

    def as_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class TraceSet:
    """One entry per sequence; the token weights are 1 for a token of the assistant, else 0."""

    samples: tuple[TrainSample, ...]
    counts: Counts

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that is trained on, in order."""
        digest = hashlib.sha256()
        for sample in self.samples:
            for part in (sample.prompt_ids, sample.completion_ids, sample.token_weights):
                digest.update(f"{len(part)}|".encode())
                digest.update(part.tobytes())
        return digest.hexdigest()


def read_traces(recipe: SftRecipe, files: ModelDirectory) -> tuple[TraceSet, TraceSet | None]:
    """(training set, validation set or None). Raises ValueError for traces that cannot be used."""
    data, longest = recipe.data, _longest(recipe, files)
    encoder = TraceEncoder(files.tokenizer, files.stop_ids(), data.template, recipe.sft.loss_on)

    def made(traces: Sequence[Trace], source: str) -> TraceSet:
        return _trace_set(recipe, source, len(traces), encoder.encode(traces), longest)

    traces = load_traces(data.source, data)
    if data.validation is not None:
        return made(traces, data.source), made(load_traces(data.validation, data), data.validation)
    if not data.validation_frac:
        return made(traces, data.source), None
    out = set(generator(KEPT_OUT, recipe.seed).permutation(len(traces))[: _num_kept_out(recipe, len(traces))].tolist())
    kept = [trace for index, trace in enumerate(traces) if index not in out]
    held = [trace for index, trace in enumerate(traces) if index in out]
    return made(kept, data.source), made(held, data.source)


def _num_kept_out(recipe: SftRecipe, count: int) -> int:
    wanted = max(1, round(recipe.data.validation_frac * count))
    if wanted >= count:
        raise ValueError(
            f"data.validation_frac = {recipe.data.validation_frac} keeps {wanted} of {counted(count, 'trace')} out of "
            "training and leaves none; lower it, or give more traces"
        )
    return wanted


def _longest(recipe: SftRecipe, files: ModelDirectory) -> int:
    """Most tokens of a sequence. Raises ValueError for more than the model takes."""
    wanted, context = recipe.data.max_tokens, files.context
    if wanted is not None and wanted > context:
        raise ValueError(
            f"data.max_tokens = {wanted} is above the model's context: {files.path} takes {counted(context, 'token')}; "
            f"set data.max_tokens = {context} or less"
        )
    return min(wanted or context, recipe.training.tokens_per_micro_batch)


def _trace_set(
    recipe: SftRecipe, source: str, num_traces: int, encoded: Sequence[EncodedTrace], longest: int
) -> TraceSet:
    """The sequences that fit, or as much of them as fits. Raises ValueError where that leaves nothing."""
    policy, too_long = recipe.data.too_long, [trace for trace in encoded if len(trace.ids) > longest]
    if too_long and policy == "error":
        worst = max(too_long, key=lambda trace: len(trace.ids))
        raise ValueError(f"{_too_long(too_long, longest)}, the longest of them {worst.where}; {_ways_out(recipe)}")
    fitting = [trace for trace in encoded if len(trace.ids) <= longest or policy == "truncate"]
    # Truncating may leave the prompt alone, of which nothing is learned.
    kept = [trace for trace in fitting if trace.supervised[:longest].any()]
    if not kept:
        raise ValueError(f"{source}: {_too_long(too_long, longest)}, so none is left; {_ways_out(recipe)}")
    samples = tuple(_sample(trace, longest) for trace in kept)
    return TraceSet(
        samples,
        Counts(
            num_traces=num_traces,
            num_sequences=len(samples),
            num_tokens=sum(sample.num_tokens for sample in samples),
            num_trained_tokens=int(sum(sample.token_weights.sum() for sample in samples)),
            longest_tokens=max(sample.num_tokens for sample in samples),
            num_dropped=len(encoded) - len(kept),
            num_truncated=sum(len(trace.ids) > longest for trace in kept),
        ),
    )


def _too_long(traces: Sequence[EncodedTrace], longest: int) -> str:
    return f"{counted(len(traces), 'trace')} have more than {counted(longest, 'token')} (first: {traces[0].where})"


def _ways_out(recipe: SftRecipe) -> str:
    limit = "data.max_tokens" if recipe.data.max_tokens is not None else "training.tokens_per_micro_batch"
    return (
        f"raise {limit} where the model's context and the memory allow it, shorten the traces, or set data.too_long = "
        "'drop' or 'truncate'"
    )


def _sample(trace: EncodedTrace, longest: int) -> TrainSample:
    """The prompt ends before the first token of the assistant; what others say later has weight 0."""
    first = int(np.flatnonzero(trace.supervised)[0])
    last = int(np.flatnonzero(trace.supervised[:longest])[-1]) + 1
    weights = trace.supervised[first:last].astype(np.float32)
    return supervised_sample(trace.ids[:first], trace.ids[first:last], weights)


@dataclass(frozen=True, slots=True)
class Batches:
    """Which traces each step trains on, a function of seed and step: a resumed run goes on with the same.

    Every epoch has an order of its own; its last step takes what is left.
    """

    num_traces: int
    traces_per_step: int
    epochs: int
    seed: int
    limit: int | None = None

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_traces // self.traces_per_step)

    @property
    def num_steps(self) -> int:
        return min(self.epochs * self.steps_per_epoch, self.limit or sys.maxsize)

    def epoch_of(self, step: int) -> int:
        """Of a step from 1 on, from 1 on."""
        return (step - 1) // self.steps_per_epoch + 1

    def indices(self, step: int) -> Iterable[int]:
        epoch, start = self.epoch_of(step), (step - 1) % self.steps_per_epoch * self.traces_per_step
        order = generator("traces", self.seed, epoch).permutation(self.num_traces)
        return order[start : start + self.traces_per_step].tolist()
