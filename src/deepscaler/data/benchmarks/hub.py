"""The five benchmarks on the hub: which file of a dataset holds them, at which commit."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path

from deepscaler.data.benchmarks.specs import BenchmarkSpec, HubSource
from deepscaler.data.sources.hub import snapshot
from deepscaler.data.sources.readers import FORMATS, DataError, format_of, is_data_file, read_rows

_PREFERRED = (
    ".parquet",
    ".jsonl",
    ".json",
    ".csv",
    ".tsv",
    ".arrow",
)  # where a dataset holds its rows in several formats


@dataclass(frozen=True, slots=True)
class HubRows:
    """rows: of all files of the split, in order. sha256: of the file, or over the digests of several.

    spec: the benchmark with the hub's columns. where: how messages call the rows.
    """

    rows: list[object]
    sha256: str
    spec: BenchmarkSpec
    where: Path


def download(spec: BenchmarkSpec) -> tuple[HubRows, str]:
    """(the benchmark's rows on the hub, the commit they come from). Raises DataError where they cannot be read."""
    source = spec.hub
    fetch = f"hf download {source.dataset} --repo-type dataset --revision {source.revision} --local-dir DIR/{spec.name}"
    instead = (
        f"give --benchmarks DIR (evaluation.benchmarks_dir in a training recipe), which holds {spec.file}, or "
        f"in DIR/{spec.name} what `{fetch}` fetches on a machine with a network"
    )
    directory = snapshot(source.dataset, source.revision, instead=instead)
    return read_layout(spec, directory), directory.name


def read_layout(spec: BenchmarkSpec, directory: Path) -> HubRows:
    """The benchmark's rows from a directory laid out like its dataset on the hub. Raises DataError."""
    files = split_files(directory, spec.hub)
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    together = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    rows = [row for file in files for row in read_rows(file)]
    on_hub = replace(spec, fields=spec.hub.fields, answer_form=spec.hub.answer_form)
    return HubRows(rows, together, on_hub, files[0] if len(files) == 1 else directory)


def split_files(directory: Path, source: HubSource) -> list[Path]:
    """The files of the split, in the order of their names; of one format, the first of _PREFERRED that is there.

    A file belongs to a split or a configuration when its path names it (`data/test-00000-of-00001.parquet`,
    `CONFIG/CONFIG.parquet`). Where no path names the split, the dataset has only one. Raises DataError for none.
    """
    found = sorted(
        path
        for path in directory.rglob("*")
        if is_data_file(path) and not any(p.startswith(".") for p in path.relative_to(directory).parts)
    )
    for word in filter(None, (source.config, source.split)):
        named = [path for path in found if _names(path.relative_to(directory), word)]
        if word == source.config or named:
            found = named
    for suffix in _PREFERRED:
        files = [path for path in found if format_of(path) == suffix]
        if files:
            return files
    what = f"configuration {source.config}, split {source.split}" if source.config else f"split {source.split}"
    raise DataError(f"{directory} holds no file of {source.dataset}, {what}; expected one of {', '.join(FORMATS)}")


def _names(path: Path, word: str) -> bool:
    return re.search(rf"(^|[/_.-]){re.escape(word)}([/_.-]|$)", path.as_posix()) is not None
