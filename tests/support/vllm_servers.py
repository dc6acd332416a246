"""Real vLLM servers for the tests of `make test-vllm`: one process for each shape of model, for the whole session.

Starting a server takes half a minute, so samplers under test share one, and get their weights by publishing.
"""

from __future__ import annotations

import atexit
import sys
import tempfile
from pathlib import Path
from typing import Any

from deepscaler.config.evaluation import EngineSection
from deepscaler.engines.vllm_server.client import ServerClient
from deepscaler.engines.vllm_server.engine import ServerSettings
from deepscaler.engines.vllm_server.opening import ServedModel, ServerStarter, connected
from deepscaler.engines.vllm_server.process import ServerProcess
from deepscaler.engines.vllm_server.publishing import WeightPublisher
from deepscaler.modeling.positions import model_context
from deepscaler.modeling.weights import LiveWeights

_PROCESSES: dict[str, tuple[ServerProcess, ServedModel]] = {}
_PLACE = Path(tempfile.mkdtemp(prefix="deepscaler-test-servers-"))


def server_section(**changes: Any) -> EngineSection:
    """Servers of the environment that runs the tests."""
    return EngineSection(kind="vllm_server", vllm_python=sys.executable, max_active=16, processes=1, **changes)


def start_sampler(model: Any, *, stop_ids: frozenset[int], max_active: int = 16) -> WeightPublisher:
    """A sampler with these weights. max_active: of the requests; a server's own limit is 16."""
    context = model_context(model.config)
    settings = ServerSettings(stop_ids, "float32", context, context)
    key = repr((model.config.model_type, [(name, tuple(p.shape)) for name, p in model.named_parameters()]))
    if key not in _PROCESSES:
        directory = _PLACE / f"model-{len(_PROCESSES)}"
        model.save_pretrained(directory)
        served = ServedModel(directory, model.config, (), on_gpu=False)
        process = ServerStarter(served, server_section(), settings, _PLACE / "logs").start(directory, len(_PROCESSES))
        atexit.register(process.stop)
        _PROCESSES[key] = (process, served)
    process, served = _PROCESSES[key]
    client = ServerClient(process.url, process.key, process)
    process.wait_until_ready(client.is_healthy)
    sampler = WeightPublisher(connected(client, served, settings), _PLACE / "weights", "float32")
    sampler.load_weights(LiveWeights(0, model.named_parameters))
    return sampler
