"""A table of made-up samples as the file that an evaluation leaves."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from deepscaler.evaluation.samples import SCHEMA, validate_samples


def write_samples(table: pa.Table, path: Path) -> None:
    validate_samples(table, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.select(SCHEMA.names), path)
