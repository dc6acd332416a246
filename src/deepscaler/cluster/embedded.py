"""The engine in this process and its helpers, over an opened model directory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepscaler.cluster.helper import EngineSettings
from deepscaler.cluster.processes import num_processes, open_sharded_engine
from deepscaler.config.evaluation import EngineSection
from deepscaler.config.sections.algorithm import AlgorithmSection
from deepscaler.config.sections.training import TrainingSection
from deepscaler.engines.registry import Decode, Engine, ModelFiles, Report, engine_fingerprint, print_note
from deepscaler.engines.torch.stops import plain_decode
from deepscaler.protocols import Sampler
from deepscaler.training.gradients import GradientComputer
from deepscaler.types import SamplingParams


@contextmanager
def open_torch_engine(
    files: ModelFiles,
    engine: EngineSection,
    *,
    capacity: int,
    params: SamplingParams,
    run_dir: Path | None = None,
    report: Report = print_note,
) -> Iterator[tuple[Sampler, Decode]]:
    """The engine in this process and its helpers, and what turns its ids into text.

    capacity: tokens of prompt and completion. params: what ends a completion.
    """
    model = files.load(capacity)
    count = num_processes(engine.processes, files.device)
    slots = files.slots(capacity=capacity, most=engine.max_active)
    computer = GradientComputer(model, None, AlgorithmSection(), TrainingSection(), temperature=1.0)
    stop_ids = files.stop_ids(params.stop_token_ids)
    settings = EngineSettings(stop_ids, slots, plain_decode(files.tokenizer))
    with open_sharded_engine(computer, settings, count=count, report=report) as sampler:
        yield sampler, files.decoder(stop_ids, params.stop)


ENGINE = Engine(lambda files, _: engine_fingerprint("torch", files), open_torch_engine)
