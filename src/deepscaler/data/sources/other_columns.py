"""The columns of a row beside problem and answer, for reward functions that take them."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping

from deepscaler.data.sources.readers import DataError
from deepscaler.observability.counts import counted
from deepscaler.types import WantedColumns

NO_OTHERS = WantedColumns()
MAX_CHARACTERS = 2**18  # of a row's columns as JSON


def other_columns(where: str, row: Mapping[str, object], wanted: WantedColumns, *, without: Collection[str]) -> str:
    """The text of a JSON object; empty where no column is wanted or there.

    without: the columns of problem and answer, unless a function requires them by name. Raises DataError for a column
    that a function cannot do without, and for columns too large to carry along with every problem.
    """
    for name, part in wanted.required.items():
        if name not in row:
            raise DataError(
                f"{where}: no field {name!r}, which reward part {part!r} takes; it has {', '.join(map(str, row))}. "
                "Give the parameter a default, or the row the field"
            )
    kept = {
        str(name): value
        for name, value in row.items()
        if (name in wanted.required or name not in without) and (wanted.kept is None or name in wanted.kept)
    }
    if not kept:
        return ""
    text = json.dumps(kept, default=str)
    if len(text) > MAX_CHARACTERS:
        longest = max(kept, key=lambda name: len(json.dumps(kept[name], default=str)))
        raise DataError(
            f"{where}, field {longest!r}: columns that reward functions take hold {counted(len(text), 'character')} "
            f"in this row, at most {MAX_CHARACTERS:,}; name the columns in the function's signature instead of **kwargs"
        )
    return text
