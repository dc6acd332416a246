"""A Ray cluster that a run cannot use is refused with one message, before a model is loaded. No Ray is started here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from deepscaler.cluster import ray_nodes
from deepscaler.cluster.ray_nodes import Seen, check_nodes
from deepscaler.cluster.ray_session import Local, ray_session

LOCAL = Local(num_cpus=1, num_gpus=0, object_store_bytes=80 * 2**20)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:1", r"the Ray cluster at .*:1 cannot be used .*refused.*--set cluster.address=local"),
        ("nonsense", "cluster.address = 'nonsense': give HOST:PORT, or local"),
    ],
)
def test_a_cluster_that_cannot_be_reached_is_refused_at_once(address: str, expected: str) -> None:
    with pytest.raises(ValueError, match=expected), ray_session(address, LOCAL):
        pass


@pytest.fixture
def machines(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], Seen | None]], None]:
    """Two machines that see what the function makes of the token file's path."""

    def make(see: Callable[[Path], Seen | None]) -> None:
        nodes = [
            {"NodeID": str(i) * 56, "NodeManagerAddress": f"10.0.0.{i}", "Alive": True, "Resources": {"CPU": 1.0}}
            for i in (1, 2)
        ]
        monkeypatch.setattr(ray_nodes.ray, "nodes", lambda: nodes)
        asked = SimpleNamespace(remote=see)
        monkeypatch.setattr(ray_nodes, "_look", SimpleNamespace(options=lambda scheduling_strategy: asked))
        monkeypatch.setattr(ray_nodes, "_answer", lambda name, seen: seen)

    return make


def test_machines_with_other_versions_are_named_with_the_versions(machines, tmp_path: Path) -> None:
    here = ray_nodes._versions()
    machines(lambda path: Seen({**here, "torch": "1.0"}, path.read_text()))
    with pytest.raises(ValueError, match=r"10\.0\.0\.1 has other versions than this one \(torch 1.0 instead of "):
        check_nodes(tmp_path)
    assert not list(tmp_path.iterdir()), "the token file is gone"


def test_a_run_directory_that_is_not_shared_is_refused(machines, tmp_path: Path) -> None:
    machines(lambda path: Seen(ray_nodes._versions(), None))
    with pytest.raises(ValueError, match=r"10\.0\.0\.1 does not see the run's directory .*--run-dir must be on a file"):
        check_nodes(tmp_path)


def test_machines_that_agree_or_have_just_left_pass(machines, tmp_path: Path) -> None:
    machines(lambda path: Seen(ray_nodes._versions(), path.read_text()))
    check_nodes(tmp_path)
    machines(lambda path: None)
    check_nodes(tmp_path)
