r"""The layouts in which problems come and go: plain columns, verl's, and TRL's.

plain  {"problem": "1+1?", "answer": "2"}
verl   {"data_source": "math", "prompt": [{"role": "user", "content": "1+1? Let's think ..."}], "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"index": 0, "split": "train"}}
TRL    {"prompt": [{"role": "user", "content": "1+1? Let's think ..."}], "solution": "\\boxed{2}"}
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Layout = Literal["plain", "verl", "trl"]
MISSING = object()

_DAPO_BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem."
)
_DAPO_AFTER = 'Remember to put your answer on its own line after "Answer:".'
_DEEPSCALER_AFTER = "Let's think step by step and output the final answer within \\boxed{}."


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a plain layout hold the problem and its answer; instruction: what prompts carry besides it."""

    problem: str = "problem"
    answer: str = "answer"
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class Fields:
    """A row's values under our names, unchecked; MISSING where the row has no such field."""

    problem: Any
    answer: Any
    problem_field: str
    answer_field: str
    difficulty: Any = None
    solution: Any = None
    source: Any = None
    id: Any = None


def layout_of(row: Mapping[str, Any], columns: Columns) -> Layout:
    """verl's where a reward model stands beside the prompt, TRL's where a prompt stands and no problem column."""
    if isinstance(row.get("reward_model"), Mapping) and "prompt" in row:
        return "verl"
    return "trl" if "prompt" in row and columns.problem not in row else "plain"


def read_fields(row: Mapping[str, Any], columns: Columns) -> Fields:
    """The row's values, whatever its layout."""
    match layout_of(row, columns):
        case "verl":
            return _read_verl(row, columns)
        case "trl":
            return _read_trl(row, columns)
        case "plain":
            return Fields(
                problem=row.get(columns.problem, MISSING),
                answer=row.get(columns.answer, MISSING),
                problem_field=columns.problem,
                answer_field=columns.answer,
                difficulty=row.get("difficulty"),
                solution=row.get("solution"),
                source=row.get("source"),
                id=row.get("id"),
            )


def _read_verl(row: Mapping[str, Any], columns: Columns) -> Fields:
    extra = row["extra_info"] if isinstance(row.get("extra_info"), Mapping) else {}
    answer = extra.get("references") or row["reward_model"].get("ground_truth", MISSING)
    return Fields(
        problem=_question(row["prompt"], columns.instruction),
        answer=answer,
        problem_field="prompt",
        answer_field="reward_model.ground_truth",
        difficulty=extra.get("difficulty"),
        source=row.get("data_source"),
        id=extra.get("id"),
    )


def _read_trl(row: Mapping[str, Any], columns: Columns) -> Fields:
    field = columns.answer if columns.answer in row else "solution"
    answer = row.get(field, MISSING)
    if field == "solution" and isinstance(answer, str):
        answer = unboxed(answer)
    return Fields(
        problem=_question(row["prompt"], columns.instruction),
        answer=answer,
        problem_field="prompt",
        answer_field=field,
        difficulty=row.get("difficulty"),
        source=row.get("source"),
        id=row.get("id"),
    )


def _question(prompt: Any, instruction: str) -> Any:
    """The last user message of a conversation, or the prompt itself, without the instructions around the problem."""
    if isinstance(prompt, list):
        messages = [m for m in prompt if isinstance(m, Mapping) and m.get("role") == "user"]
        if not messages:
            return MISSING
        prompt = messages[-1].get("content")
    return without_instruction(prompt, instruction) if isinstance(prompt, str) else prompt


def without_instruction(text: str, instruction: str = "") -> str:
    """The problem alone: known instructions (this recipe's, DeepScaleR's, DAPO's) before and after it are taken off."""
    text = text.strip().removeprefix(_DAPO_BEFORE).strip()
    for ending in (instruction, _DEEPSCALER_AFTER, _DAPO_AFTER):
        text = text.removesuffix(ending).rstrip() if ending else text
    return text


def unboxed(text: str) -> str:
    r"""`2` for `\boxed{2}` and for `$\boxed{2}$`; any other text as it is."""
    inner = text.strip().strip("$").strip()
    if inner.startswith("\\boxed{") and inner.endswith("}"):
        inner = inner.removeprefix("\\boxed{")[:-1]
        if _balanced(inner):
            return inner
    return text


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "{") - (character == "}")
        if depth < 0:
            return False
    return depth == 0


def write_layout(rows: Sequence[Mapping[str, Any]], layout: Layout, instruction: str, split: str) -> Iterator[dict]:
    """Prepared rows (prepare.SCHEMA) in another program's layout; `read_fields` gives the same problems back."""
    for number, row in enumerate(rows):
        content = f"{row['problem']} {instruction}" if instruction else row["problem"]
        prompt = [{"role": "user", "content": content}]
        references = list(row["answer"])
        if layout == "trl":
            yield {
                "prompt": prompt,
                "solution": f"\\boxed{{{references[0]}}}",
                "answer": references,
                "id": row["id"],
                "source": row["source"],
                "difficulty": row["difficulty"],
            }
        elif layout == "verl":
            yield {
                "data_source": row["source"],
                "prompt": prompt,
                "ability": "math",
                "reward_model": {"style": "rule", "ground_truth": references[0]},
                "extra_info": {
                    "split": split,
                    "index": number,
                    "id": row["id"],
                    "references": references,
                    "difficulty": row["difficulty"],
                },
            }
        else:
            yield dict(row)


def shown(value: Any, limit: int = 80) -> str:
    """A value for a message: as JSON where it can be, cut after `limit` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
