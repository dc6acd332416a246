"""Training sets on the Hugging Face hub, each at a pinned commit, and what to do without a network."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from deepscaler.data.sources.readers import FORMATS, DataError, is_data_file

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_NO_DATA = re.compile(
    r"(^|/)\.|(^|/)(dataset_infos|dataset_info|dataset_dict|state|README)\b|(^|/)cache-[^/]*\.arrow$"
    r"|(^|[/_.-])(test|valid|validation|dev)\b"
)

_PATTERNS = [f"*{suffix}{packed}" for suffix in FORMATS for packed in ("", ".gz")]
CONNECT_S = 5.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class HubDataset:
    """A dataset whose content is known. revision: the commit; files: what of it holds the training rows."""

    name: str
    revision: str
    files: tuple[str, ...]
    licence: str
    note: str


DATASETS = {
    dataset.name: dataset
    for dataset in (
        HubDataset(
            name="agentica-org/DeepScaleR-Preview-Dataset",
            revision="b6ae8c60f5c1f2b594e2140b91c49c9ad0949e29",
            files=("deepscaler.json",),
            licence="MIT",
            note="40.3K problems; 196 match MATH-500, a few answers are wrong or missing",
        ),
        HubDataset(
            name="BytedTsinghua-SIA/DAPO-Math-17k",
            revision="65877096c24ffa7abc4e4fa5edb95cf3413a5674",
            files=("data/dapo-math-17k.parquet",),
            licence="Apache-2.0",
            note="verl's layout; the file holds each of 17,917 rows about a hundred times",
        ),
    )
}


def is_hub_name(source: str) -> bool:
    """Whether a source that is no local path could be a dataset's name, `owner/name` or `owner/name@revision`."""
    return _NAME.fullmatch(source) is not None and not is_data_file(Path(source))


def fetch(source: str) -> tuple[list[Path], str, str]:
    """(files, revision, licence) of a hub dataset, from the hub's cache or the network.

    A registered dataset comes at its pinned commit; any other needs one: `owner/name@commit`. Raises DataError, saying
    which file to put where, when it cannot be downloaded.
    """
    name, _, revision = source.partition("@")
    known = DATASETS.get(name)
    revision = revision or (known.revision if known else "")
    if not revision:
        raise DataError(
            f"{source} is no local file and no registered dataset ({', '.join(DATASETS)}); name another hub dataset "
            f"with the commit to read, {name}@COMMIT, so that the same command reads the same rows next year"
        )
    return _download(name, revision, known), revision, known.licence if known else "see the dataset's card"


def _download(name: str, revision: str, known: HubDataset | None) -> list[Path]:
    wanted = ", ".join(known.files) if known else "its data files"
    instead = (
        f"on a machine with a network run `hf download {name} --repo-type dataset --revision {revision} "
        f"--local-dir DIR`, bring DIR here and give DIR (or {wanted} in it) in the dataset's place"
    )

    def get(hub: Any, offline: bool) -> list[Path]:
        if known:  # a file of a pinned commit comes from the cache without asking, if it is there
            options = {"repo_type": "dataset", "revision": revision, "local_files_only": offline}
            return [Path(hub.hf_hub_download(name, file, **options)) for file in known.files]
        if offline:
            raise OSError
        options = {"repo_type": "dataset", "revision": revision, "allow_patterns": _PATTERNS}
        return data_files(Path(hub.snapshot_download(name, **options)))

    return _ask_hub(name, get, instead)


def snapshot(name: str, revision: str, *, instead: str) -> Path:
    """The data files of a dataset at a commit, which is the directory's name; from the hub's cache or the network.

    Raises DataError that ends with what to do `instead`.
    """

    def get(hub: Any, offline: bool) -> Path:
        options = {"repo_type": "dataset", "revision": revision, "local_files_only": offline}
        return Path(hub.snapshot_download(name, allow_patterns=_PATTERNS, **options))

    return _ask_hub(name, get, instead)


def _ask_hub(name: str, get: Callable[[Any, bool], T], instead: str) -> T:
    """What `get(huggingface_hub, offline)` finds. Raises DataError for every way in which the hub can fail."""
    try:
        import huggingface_hub
        from huggingface_hub import constants
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ModuleNotFoundError as error:
        raise DataError(
            f"reading {name} from the hub needs the `hub` extra: pip install 'deepscaler[hub]'. Or {instead}"
        ) from error
    offline = not reachable(constants.ENDPOINT)
    try:
        return get(huggingface_hub, offline)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = f"no connection to {constants.ENDPOINT}" if offline else " ".join(str(error).split())
        raise DataError(f"dataset {name} could not be downloaded from the hub ({reason}); {instead}") from error


def reachable(endpoint: str) -> bool:
    """Whether the hub answers at all: its own client retries for half a minute before it says no.

    Behind a proxy, which may know the way where this machine does not, the answer is yes.
    """
    address = urlsplit(endpoint)
    if getproxies().get(address.scheme):
        return True
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=CONNECT_S).close()
    except OSError:
        return False
    return True


def data_files(directory: Path) -> list[Path]:
    """The training files of a directory laid out like a dataset on the hub, or written by `save_to_disk` of datasets,
    in the order of their names.

    Test and validation splits, hidden files and the hub's own descriptions are left out.
    """
    found = [path for path in directory.rglob("*") if is_data_file(path)]
    found = sorted(path for path in found if not _NO_DATA.search(path.relative_to(directory).as_posix()))
    if not found:
        raise DataError(f"{directory} holds no training file; expected {', '.join(FORMATS)}")
    return found
