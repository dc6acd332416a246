"""vLLM servers as `engine.kind` and `rollout.engine`: one sampler over all of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from deepscaler.config.evaluation import EngineSection
from deepscaler.engines.registry import Decode, Engine, ModelFiles
from deepscaler.engines.vllm_server.opening import fingerprint_of, open_servers, settings_for
from deepscaler.engines.vllm_server.publishing import FilePublisher
from deepscaler.engines.vllm_shared.requests import refuse_stop_strings
from deepscaler.modeling.published_files import remove_versions
from deepscaler.protocols import Sampler
from deepscaler.types import SamplingParams


@contextmanager
def open_vllm_servers(
    files: ModelFiles, engine: EngineSection, *, capacity: int, params: SamplingParams, run_dir: Path | None = None
) -> Iterator[tuple[Sampler, Decode]]:
    """Servers that are started here end with the context; their logs stay in `run_dir/workers`."""
    refuse_stop_strings(params)
    settings = settings_for(files, engine, capacity=capacity, params=params)
    with tempfile.TemporaryDirectory(prefix="deepscaler-vllm-servers-") as temporary:
        place = run_dir or Path(temporary)
        root = Path(engine.vllm_weights_dir) if engine.vllm_weights_dir else place / "weights"
        with open_servers(files, engine, settings, place / "workers") as servers:
            yield FilePublisher(servers[0], root, files.dtype), files.decoder(settings.stop_ids)
            remove_versions(root)


ENGINE = Engine(fingerprint_of, open_vllm_servers)
