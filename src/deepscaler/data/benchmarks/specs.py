"""Metadata of the five benchmarks: origin, content of their files, and deviations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

AnswerForm = Literal["integer_text", "float", "latex", "variants", "joined_list"]


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

    sha256: digests of the known file; any other content needs the caller's explicit consent.
    rows_sha256: over the row hashes (`benchmarks.row_hash`) of the known file, to tell whether another source agrees.
    fields: role -> column of the file. Roles: problem, answer (required), solution, difficulty, group (what
        `Problem.source` gets after the benchmark's name), tolerance, multiple.
    answer_form: how `answer` is written, which decides how references are cleaned.
    quirks: what a reader of scores should know, one sentence each.
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


_UPSTREAM = "the DeepScaleR repository's copy (MIT)"

_SPECS = (
    BenchmarkSpec(
        name="aime24",
        title="AIME 2024",
        file="aime24.json",
        num_problems=30,
        sha256=("03fd341fee10fb71cf906be4eb3042081f314c4d16077489e41f9375085d20d2",),
        rows_sha256="a2bf061630a70e542da77d417b35febb835ec14c22e4e40d63113425ebd23329",
        licence=f"problems (c) MAA; {_UPSTREAM}; the hub's card states no licence",
        hub=HubSource(
            dataset="HuggingFaceH4/aime_2024",
            revision="2fe88a2f1091d5048c0f36abc874fb997b3dd99a",
            split="train",
            config=None,
            fields={"problem": "problem", "answer": "answer", "solution": "solution", "group": "url"},
            answer_form="integer_text",
            revision_note="matches the dataset's commit page and the pins of several public evaluation projects",
        ),
        fields={
            "problem": "problem",
            "answer": "answer",
            "solution": "solution",
            "difficulty": "difficulty",
            "group": "aime_number",
        },
        answer_form="integer_text",
        quirks=("Answers are three digits with leading zeros (025); they are loaded as integers (25).",),
    ),
    BenchmarkSpec(
        name="amc23",
        title="AMC 2023",
        file="amc23.json",
        num_problems=83,
        sha256=("2666a217cb566efb77ebfce61841d5d8855d4b4be89633b29df3a43dcfd942dd",),
        rows_sha256="cbb9a15ab76ab787df2c801f135ffb38aa4390bde99506750b3eaaf51ebfb7f5",
        licence=f"problems (c) MAA; {_UPSTREAM}; Apache-2.0 on the hub",
        hub=HubSource(
            dataset="AI-MO/aimo-validation-amc",
            revision="3439067ac9825a505319caa5ca4a8895942d8770",
            split="train",
            config=None,
            fields={"problem": "problem", "answer": "answer", "group": "url"},
            answer_form="float",
            revision_note="the commit page that holds the data file; later commits change the card only",
        ),
        fields={"problem": "problem", "answer": "answer", "difficulty": "difficulty", "group": "url"},
        answer_form="float",
        quirks=(
            "AMC 12 of 2022 and 2023, 83 problems; other papers call a set of 40 problems of 2023 by the same name.",
            "Answers are floats (142.0); they are loaded as integers (142).",
        ),
    ),
    BenchmarkSpec(
        name="math500",
        title="MATH-500",
        file="math500.json",
        num_problems=500,
        sha256=("02e232722dd1f9ab307124bfff40621d32193632b6b84aa9a246e701f0478141",),
        rows_sha256="406b25d8a5a2071226e6e9d9dddd67f7b2d932897dba6e58a698508268d9b21d",
        licence=f"MIT (MATH); {_UPSTREAM}",
        hub=HubSource(
            dataset="HuggingFaceH4/MATH-500",
            revision="6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            split="test",
            config=None,
            fields={
                "problem": "problem",
                "answer": "answer",
                "solution": "solution",
                "difficulty": "level",
                "group": "unique_id",
            },
            answer_form="latex",
            revision_note="the pin of many public evaluation projects; the dataset's own page was not reachable",
        ),
        fields={"problem": "problem", "answer": "answer", "difficulty": "difficulty", "group": "unique_id"},
        answer_form="latex",
        quirks=("`difficulty` is the level of MATH, 1 to 5.",),
    ),
    BenchmarkSpec(
        name="minerva",
        title="Minerva Math",
        file="minerva.json",
        num_problems=272,
        sha256=("ba6147602d8b2f9071ecf578e29aa1100c634bdfa982d4c6745c2bd3077554ba",),
        rows_sha256="88297664c92ceda62ba885dd66657dc0645982fe8fef0440df3ff8e154f1392d",
        licence=f"MIT OpenCourseWare material, CC BY-NC-SA 4.0; {_UPSTREAM}",
        hub=HubSource(
            dataset="math-ai/minervamath",
            revision="ee46ddc",
            split="test",
            config=None,
            fields={"problem": "question", "answer": "answer", "group": "type"},
            answer_form="latex",
            revision_note="seen in its short form only, and its answers differ from this file's: not verified",
        ),
        fields={"problem": "problem", "answer": "answer", "solution": "solution", "group": "type"},
        answer_form="variants",
        quirks=(
            "Answers are lists of 1 to 3 spellings, many ending in a newline; any of them counts.",
            "Physical constants and rounding enter the answers, and no row declares a tolerance.",
            "Some references contradict the boxed value of their own solution; docs/benchmarks-lint.md lists them.",
        ),
    ),
    BenchmarkSpec(
        name="olympiadbench",
        title="OlympiadBench",
        file="olympiadbench.json",
        num_problems=675,
        sha256=("c1e099f7b5830fb843fa52d48d0af8a296a94745cb5981b4ce539dd18af6f8ee",),
        rows_sha256="4d480cf1774e89a68a516e68fe955cbd9f6a6c39b61ce1fc8c0269e868d3e1f7",
        licence=f"Apache-2.0; {_UPSTREAM}",
        hub=HubSource(
            dataset="Hothan/OlympiadBench",
            revision="3b426ee1d587c71b495146dde9f3e995ee7ac59f",
            split="train",
            config="OE_TO_maths_en_COMP",
            fields={
                "problem": "question",
                "answer": "final_answer",
                "solution": "solution",
                "group": "subfield",
                "tolerance": "error",
                "multiple": "is_multiple_answer",
            },
            answer_form="joined_list",
            revision_note="a commit page of the dataset; whether a later one changed the data was not verified",
        ),
        fields={
            "problem": "problem",
            "answer": "answer",
            "solution": "solution",
            "group": "subfield",
            "tolerance": "error",
            "multiple": "is_multiple_answer",
        },
        answer_form="joined_list",
        quirks=(
            "The text-only English competition part with open answers: 674 or 675 problems, by source.",
            "Several answers are joined by commas in one string, in any order; where the question names an order "
            "(m and n) it is not enforced.",
            "The `unit` column (8 rows) is not part of the reference.",
        ),
    ),
)

BENCHMARKS: Mapping[str, BenchmarkSpec] = MappingProxyType({spec.name: spec for spec in _SPECS})
