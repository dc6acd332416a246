"""Training sets on the Hugging Face hub, each at a pinned commit, and what to do without a network."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from deepscaler.data.readers import FORMATS, DataError

_NAME = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")
_NO_DATA = re.compile(
    r"(^|/)\.|(^|/)(dataset_infos|dataset_info|state|README)\b|(^|[/_.-])(test|valid|validation|dev)\b"
)


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
    return _NAME.fullmatch(source) is not None and Path(source).suffix.lower() not in FORMATS


def fetch(source: str) -> tuple[list[Path], str, str]:
    """(files, revision, licence) of a hub dataset, from the hub's cache or the network.

    A registered dataset comes at its pinned commit; any other needs one: `owner/name@commit`. Raises DataError, saying
    which file to put where, when it cannot be had.
    """
    name, _, revision = source.partition("@")
    known = DATASETS.get(name)
    revision = revision or (known.revision if known else "")
    if not revision:
        raise DataError(
            f"{source} is no local file and no registered dataset ({', '.join(DATASETS)}); name another hub dataset "
            f"with the commit to read, {name}@COMMIT, so that the same command reads the same rows next year"
        )
    directory = Path(_snapshot(name, revision, known))
    return data_files(directory), revision, known.licence if known else "see the dataset's card"


def _snapshot(name: str, revision: str, known: HubDataset | None) -> str:
    patterns = list(known.files) if known else [f"*{suffix}" for suffix in FORMATS]
    wanted = ", ".join(known.files) if known else "its data files"
    instead = (
        f"on a machine with a network run `hf download {name} --repo-type dataset --revision {revision} "
        f"--local-dir DIR`, bring DIR here and give DIR (or {wanted} in it) in the dataset's place"
    )
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
    except ModuleNotFoundError as error:
        raise DataError(
            f"reading {name} from the hub needs the `hub` extra: pip install 'deepscaler[hub]'. Or {instead}"
        ) from error
    try:
        return snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns, etag_timeout=10)
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"dataset {name} could not be had from the hub ({reason}); {instead}") from error


def data_files(directory: Path) -> list[Path]:
    """The training files of a directory laid out like a dataset on the hub, in the order of their names.

    Test and validation splits, hidden files and the hub's own descriptions are left out.
    """
    found = [path for suffix in FORMATS for path in directory.rglob(f"*{suffix}")]
    found = sorted(path for path in found if not _NO_DATA.search(path.relative_to(directory).as_posix()))
    if not found:
        raise DataError(f"{directory} holds no training file; expected {', '.join(FORMATS)}")
    return found
