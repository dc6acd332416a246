"""vLLM servers as `engine.kind` and `rollout.engine`: one sampler over all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from deepscaler.cluster.assignment import LengthAwareAssignment
from deepscaler.cluster.sampler_group import SamplerGroup
from deepscaler.cluster.supervised import SupervisedRemote
from deepscaler.cluster.thread_remote import ThreadRemote
from deepscaler.config.evaluation import EngineSection
from deepscaler.engines.registry import Decode, Engine, ModelFiles, Report, print_note
from deepscaler.engines.vllm_server.engine import ServerSettings
from deepscaler.engines.vllm_server.opening import (
    ServedModel,
    ServerStarter,
    connect_url,
    fingerprint_of,
    settings_for,
)
from deepscaler.engines.vllm_server.publishing import WeightPublisher, common_choice
from deepscaler.engines.vllm_server.transfer_choice import Choice
from deepscaler.engines.vllm_shared.model_files import model_files_only
from deepscaler.engines.vllm_shared.requests import refuse_stop_strings
from deepscaler.modeling.published_files import remove_versions
from deepscaler.protocols import Sampler
from deepscaler.types import SamplingParams


@contextmanager
def open_vllm_servers(
    files: ModelFiles,
    engine: EngineSection,
    *,
    capacity: int,
    params: SamplingParams,
    run_dir: Path | None = None,
    report: Report = print_note,
) -> Iterator[tuple[Sampler, Decode]]:
    """Servers that are started here end with the context; their logs stay in `run_dir/workers`."""
    refuse_stop_strings(params)
    settings = settings_for(files, engine, capacity=capacity, params=params)
    if run_dir is None:  # nothing is published in an evaluation
        settings = replace(settings, weight_transfer="files")
    with ExitStack() as stack:
        place = run_dir or Path(stack.enter_context(TemporaryDirectory(prefix="deepscaler-vllm-servers-")))
        root = Path(engine.vllm_weights_dir) if engine.vllm_weights_dir else place / "weights"
        servers: list[ThreadRemote] = []  # those of the beginning
        model = ServedModel.of(files)
        if engine.vllm_python:
            directory = stack.enter_context(model_files_only(files.path))
            starter = ServerStarter(model, engine, settings, place / "workers")
            starts = [partial(_started, starter, directory, index, servers) for index in range(engine.vllm_servers)]
        else:
            starts = [partial(_connected, url, model, settings, servers) for url in engine.vllm_urls]
        group = stack.enter_context(group_of(starts, servers, report))
        stack.callback(remove_versions, root)
        choice = common_choice([transfer_of(server) for server in servers])
        yield WeightPublisher(group, root, files.dtype, choice, report), files.decoder(settings.stop_ids)


@contextmanager
def group_of(
    starts: Sequence[Callable[[], ThreadRemote]], servers: Sequence[ThreadRemote], report: Report = print_note
) -> Iterator[SamplerGroup]:
    """All servers, ready. One that is lost later is started again. report: told of it."""
    remotes: list[SupervisedRemote] = []
    try:
        for number, start in enumerate(starts):
            remotes.append(SupervisedRemote(f"vLLM server {number}", start, report=report))
        for server in servers:
            server.wait_until_built()
        yield SamplerGroup(None, remotes, assignment=LengthAwareAssignment(), shares_devices=True, report=report)
    finally:
        for remote in remotes:
            remote.close()


def transfer_of(server: ThreadRemote) -> Choice:
    """Which way published weights take into it. Raises what building it raised."""
    choice = server.call("weight_transfer").result()
    assert isinstance(choice, Choice)
    return choice


def _started(starter: ServerStarter, directory: Path, index: int, servers: list[ThreadRemote]) -> ThreadRemote:
    process = starter.start(directory, index)
    remote = ThreadRemote(partial(starter.connect, process), process.stop, f"vLLM server {index}")
    servers.append(remote)
    return remote


def _connected(url: str, model: ServedModel, settings: ServerSettings, servers: list[ThreadRemote]) -> ThreadRemote:
    remote = ThreadRemote(partial(connect_url, url, model, settings), lambda: None, f"vLLM server {url}")
    servers.append(remote)
    return remote


ENGINE = Engine(fingerprint_of, open_vllm_servers)
