"""The samples table: one row per completion, the file every figure of an evaluation is computed from.

`DIR/samples.parquet` holds exactly the columns of SCHEMA. (benchmark, problem_id, sample_index) names a row once.
What a source cannot know is null, never a made-up value: token ids over HTTP; seed, latency and number of tokens of
completions that somebody else saved.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from deepscaler.json_text import parse_json
from deepscaler.rewards.extract import CLOSE_THINK, OPEN_THINK
from deepscaler.types import FinishReason, Outcome

pc: Any = pyarrow.compute  # its functions are made when it is imported, unseen by type checkers

SAMPLES_FILE = "samples.parquet"
RESULTS_FILE = "results.json"
ROWS_PER_GROUP = 1024  # long completions of 16K tokens stay under 100 MB per group
UNKNOWN_FINISH = FinishReason.UNKNOWN.value
FINISH_REASONS = tuple(reason.value for reason in FinishReason)

SCHEMA = pa.schema(
    [
        ("benchmark", pa.string()),
        ("problem_id", pa.string()),
        ("sample_index", pa.int32()),
        ("completion", pa.string()),
        ("token_ids", pa.list_(pa.int32())),  # null over HTTP
        ("num_tokens", pa.int32()),
        ("finish_reason", pa.string()),  # FINISH_REASONS
        ("outcome", pa.string()),  # types.Outcome
        ("reward", pa.float32()),  # in [0, 1], above 0 for `correct` only
        ("answer", pa.string()),  # null when there is none
        ("detail", pa.string()),
        ("seed", pa.int64()),
        ("latency_s", pa.float32()),
        ("references", pa.list_(pa.string())),
        ("source", pa.string()),
        ("difficulty", pa.float64()),
        ("tolerance", pa.float64()),
    ]
)
NULLABLE = frozenset({"token_ids", "num_tokens", "answer", "seed", "latency_s", "source", "difficulty", "tolerance"})
TEXT_COLUMNS = frozenset({"completion", "token_ids"})  # nearly all of the bytes
# In memory only, for a completion whose text is not kept: what tells it apart, whether its thoughts hold a box (as
# `_box_in_thoughts` says), and its length in characters.
DIGEST, BOXED, CHARACTERS = "digest", "boxed", "characters"
ABOUT = pa.schema([(DIGEST, pa.binary()), (BOXED, pa.string()), (CHARACTERS, pa.int64())])


def samples_table(rows: Iterable[Mapping[str, object]], where: str = "samples") -> pa.Table:
    """Rows as a validated table. Raises ValueError naming `where`, row and field; missing nullable fields are null."""
    listed = list(rows)
    for number, row in enumerate(listed):
        for name in SCHEMA.names:
            if row.get(name) is None and name not in NULLABLE:
                raise ValueError(f"{where}, row {number}, field {name}: no value; only {_nullable()} may be left out")
        unknown = row.keys() - set(SCHEMA.names)
        if unknown:
            raise ValueError(
                f"{where}, row {number}: unknown field {min(unknown)}; known are {', '.join(SCHEMA.names)}"
            )
    try:
        table = pa.Table.from_pylist(listed, schema=SCHEMA)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ValueError(_misfit(listed, where) or f"{where}: {error}") from error
    validate_samples(table, where)
    return table


def read_samples(path: Path, *, texts: bool = True) -> pa.Table:
    """The table of a file, or of `samples.parquet` in a directory, validated.

    texts=False leaves out completions and token ids: 25,000 long completions are a gigabyte, the rest a few MB.
    Raises ValueError naming file, row and field.
    """
    file = samples_file(path)
    columns = [name for name in SCHEMA.names if texts or name not in TEXT_COLUMNS]
    try:
        table = open_samples(file).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error
    validate_samples(table, str(file))
    return table.select(columns)


def read_digested(path: Path) -> pa.Table:
    """As `read_samples(path, texts=False)`, with the columns ABOUT instead of the texts, read piece by piece."""
    table, file = read_samples(path, texts=False), samples_file(path)
    try:
        batches = open_samples(file).iter_batches(batch_size=ROWS_PER_GROUP, columns=["completion"])
        about = [row for batch in batches for row in _about(batch.column(0))]
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error
    return _with_about(table, about)


def without_texts(table: pa.Table) -> pa.Table:
    """The table with the columns ABOUT instead of the texts."""
    if DIGEST not in table.column_names:
        about = [row for chunk in table.column("completion").chunks for row in _about(chunk)]
        table = _with_about(table, about)
    return table.drop_columns([name for name in table.column_names if name in TEXT_COLUMNS])


def _with_about(table: pa.Table, about: list[dict[str, object]]) -> pa.Table:
    columns = pa.Table.from_pylist(about, schema=ABOUT)
    for field in ABOUT:
        table = table.append_column(field, columns.column(field.name))
    return table


def _about(texts: Iterable[pa.Scalar]) -> list[dict[str, object]]:
    rows = []
    for value in texts:
        text = value.as_py()
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        rows.append({DIGEST: digest, BOXED: _box_in_thoughts(text), CHARACTERS: len(text)})
    return rows


def _box_in_thoughts(text: str) -> str:
    """Whether there is a box in the thinking part: yes, no, or "prefilled": only if the template opened `<think>`."""
    thoughts, closed, _ = text.rpartition(CLOSE_THINK)
    if "\\boxed" not in (thoughts if closed else text):
        return "no"
    return "yes" if closed or OPEN_THINK in text else "prefilled"


def samples_file(path: Path) -> Path:
    """The table's file, given itself or its directory. Raises ValueError when there is none."""
    file = path / SAMPLES_FILE if path.is_dir() else path
    if not file.is_file():
        raise ValueError(f"{file} does not exist; `deepscaler eval` or `deepscaler eval-import` writes one")
    return file


def open_samples(file: Path) -> pq.ParquetFile:
    """For reading piece by piece. Raises ValueError when it is no Parquet file or lacks a column."""
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error
    missing = [name for name in SCHEMA.names if name not in parquet.schema_arrow.names]
    if missing:
        raise ValueError(
            f"{file}: no column {missing[0]}; a samples table has {', '.join(SCHEMA.names)}. "
            "`deepscaler eval-import` maps the columns of other files"
        )
    return parquet


def _unreadable(file: Path, error: Exception) -> ValueError:
    return ValueError(f"{file}: not a readable Parquet file ({error}); evaluate again or restore it")


def read_results(directory: Path) -> dict[str, Any]:
    """results.json of a finished evaluation. Raises ValueError when the directory holds none."""
    file = directory / RESULTS_FILE
    if not file.is_file():
        raise ValueError(f"{directory} holds no finished evaluation ({RESULTS_FILE}); make one with `deepscaler eval`")
    try:
        results = parse_json(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file}: not JSON ({error}); `deepscaler regrade {directory}` writes it again") from error
    if not isinstance(results, dict) or not isinstance(results.get("benchmarks"), dict):
        raise ValueError(f"{file}: no field benchmarks; `deepscaler regrade {directory}` writes it again")
    return results


def model_name(settings: Mapping[str, object]) -> str:
    """The name or path of the model; empty where the settings hold none."""
    model = settings.get("model")
    return str((model.get("name") if isinstance(model, Mapping) else model) or "")


def setting(settings: Mapping[str, object], name: str) -> object:
    """A sampling setting, at the top or under `sampling`; None where it is not recorded."""
    sampling = settings.get("sampling")
    return sampling.get(name, settings.get(name)) if isinstance(sampling, Mapping) else settings.get(name)


def validate_samples(table: pa.Table, where: str) -> None:
    """Types, nulls, known words, ranges and unique keys. Raises ValueError naming `where`, row and field.

    Columns that are absent are not checked (`read_samples(texts=False)` leaves two out), except the key and the reward.
    """
    for name in ("benchmark", "problem_id", "sample_index", "reward", "outcome"):
        if name not in table.column_names:
            raise ValueError(f"{where}: no column {name}")
    for name in table.column_names:
        _check_column(table, name, where)
    _check_values(table, where)
    _check_unique(table, where)


def _check_column(table: pa.Table, name: str, where: str) -> None:
    if name not in SCHEMA.names:
        raise ValueError(f"{where}: unknown column {name}; known are {', '.join(SCHEMA.names)}")
    expected, found = SCHEMA.field(name).type, table.schema.field(name).type
    # Parquet names the items of a list `element` or `item`; the types are the same.
    same = pa.types.is_list(found) and pa.types.is_list(expected) and found.value_type == expected.value_type
    if found != expected and not same:
        raise ValueError(f"{where}, field {name}: type {found}, expected {expected}")
    column = table.column(name)
    if name not in NULLABLE and column.null_count:
        row = _first(pc.is_null(column))
        raise ValueError(f"{where}, row {row}, field {name}: no value; only {_nullable()} may be null")


def _check_values(table: pa.Table, where: str) -> None:
    words = {"outcome": tuple(o.value for o in Outcome), "finish_reason": FINISH_REASONS}
    for name, known in words.items():
        if name in table.column_names:
            strange = pc.invert(pc.is_in(table.column(name), value_set=pa.array(known)))
            _refuse(table, name, strange, where, f"expected one of {', '.join(known)}")
    reward = table.column("reward")
    inside = pc.and_(pc.greater_equal(reward, 0.0), pc.less_equal(reward, 1.0))  # false for NaN
    _refuse(table, "reward", pc.invert(inside), where, "expected a number in [0, 1]")
    right = pc.equal(table.column("outcome"), Outcome.CORRECT.value)
    _refuse(table, "reward", pc.xor(right, pc.greater(reward, 0.0)), where, "only outcome correct earns reward")
    for name in ("sample_index", "num_tokens"):
        if name in table.column_names:
            _refuse(table, name, pc.less(table.column(name), 0), where, "expected 0 or more")
    if "token_ids" in table.column_names and "num_tokens" in table.column_names:
        differ = pc.not_equal(pc.list_value_length(table.column("token_ids")), table.column("num_tokens"))
        _refuse(table, "num_tokens", differ, where, "token_ids has another length")


def _refuse(table: pa.Table, name: str, bad: pa.ChunkedArray, where: str, expected: str) -> None:
    if pc.any(bad).as_py():
        row = _first(bad)
        raise ValueError(f"{where}, row {row}, field {name}: {table.column(name)[row].as_py()!r}; {expected}")


def _check_unique(table: pa.Table, where: str) -> None:
    keys = [table.column(name) for name in ("benchmark", "problem_id", "sample_index")]
    codes = [pc.dictionary_encode(key).combine_chunks() for key in keys]
    numbers = np.stack([_indices(code) for code in codes]) if len(table) else np.zeros((3, 0), np.int64)
    _, first, count = np.unique(numbers, axis=1, return_index=True, return_counts=True)
    if (count > 1).any():
        row = int(first[count > 1].min())
        name = "/".join(str(key[row].as_py()) for key in keys)
        raise ValueError(f"{where}, row {row}, field sample_index: {name} appears more than once; keep one of the rows")


def _indices(code: pa.Array | pa.ChunkedArray) -> np.ndarray:
    array = code.combine_chunks() if isinstance(code, pa.ChunkedArray) else code
    return np.asarray(array.indices)


def _first(mask: pa.ChunkedArray) -> int:
    return int(pc.index(mask, True).as_py())


def _nullable() -> str:
    return ", ".join(name for name in SCHEMA.names if name in NULLABLE)


def _misfit(rows: Sequence[Mapping[str, object]], where: str) -> str | None:
    """The first value that its column's type cannot hold, in words."""
    for number, row in enumerate(rows):
        for name in SCHEMA.names:
            try:
                pa.array([row.get(name)], type=SCHEMA.field(name).type)
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
                return f"{where}, row {number}, field {name}: {row[name]!r}; expected {SCHEMA.field(name).type}"
    return None
