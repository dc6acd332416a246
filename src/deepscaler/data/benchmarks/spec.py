"""What is recorded of a benchmark: origin, content of its files, and deviations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from deepscaler.types import AnswerKind

AnswerForm = Literal["integer_text", "float", "latex", "variants", "joined_list", "choice"]


@dataclass(frozen=True, slots=True)
class HubSource:
    """The same problems on the hub. `revision` is a commit; `revision_note` says how far it could be confirmed.

    fields, answer_form: as in BenchmarkSpec, of the hub's columns.
    """

    dataset: str
    revision: str
    split: str
    config: str | None
    fields: Mapping[str, str]
    answer_form: AnswerForm
    revision_note: str


@dataclass(frozen=True, slots=True)
class BenchmarkSpec:
    """One registered benchmark.

    sha256: digests of the known file, empty where none is known; any other content needs the caller's explicit consent.
    rows_sha256: over the row hashes (`benchmarks.row_hash`) of the known file, to tell whether another source agrees;
        empty where it is not known.
    fields: role -> column of the file, with dots for one inside another (`prompt.0.content`). Roles: problem, answer
        (required), solution, difficulty, group (what `Problem.source` gets after the benchmark's name), tolerance,
        multiple.
    answer_form: how `answer` is written, which decides how references are cleaned. `choice`: the text of the right
        choice, which is listed among `wrong_choices` under letters, in an order of its own for every row.
    quirks: what a reader of scores should know, one sentence each.
    file: empty where no file of it is registered; it is then read in the layout of the hub only.
    instruction: asked instead of the suite's. wrong_choices: columns of the choices that are wrong.
    """

    name: str
    title: str
    file: str
    num_problems: int
    sha256: tuple[str, ...]
    rows_sha256: str
    licence: str
    hub: HubSource
    fields: Mapping[str, str]
    answer_form: AnswerForm
    quirks: tuple[str, ...]
    instruction: str | None = None
    wrong_choices: tuple[str, ...] = ()

    @property
    def answer_kind(self) -> AnswerKind:
        return "letter" if self.answer_form == "choice" else "math"
