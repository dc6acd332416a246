r"""The layouts in which problems come and go: plain columns, verl's, TRL's, and what preparation writes.

plain     {"problem": "1+1?", "answer": "2"}
verl      {"data_source": "math", "prompt": [{"role": "user", "content": "1+1? Let's think ..."}], "ability": "math",
           "reward_model": {"style": "rule", "ground_truth": "2"}, "extra_info": {"index": 0, "split": "train"}}
TRL       {"prompt": [{"role": "user", "content": "1+1? Let's think ..."}], "solution": "So it is \\boxed{2}."}
prepared  {"problem": "1+1?", "answer": ["2"], "earlier": [], "file": "rows.json", "row": 0, ...} (prepare.PREPARED)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deepscaler.data.sources.conversations import decoded, read_prompt
from deepscaler.types import Message

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
    """Which columns hold the problem and its answer, a path of names with dots for one inside another
    (`extra_info.answer`); instruction: the text of prompts besides the problem.

    verl's and TRL's layouts are known without their columns' names, and a prepared file has its own.
    """

    problem: str = "problem"
    answer: str = "answer"
    instruction: str = ""


@dataclass(frozen=True, slots=True)
class Fields:
    """A row's values under our names, unchecked; MISSING where the row has no such field.

    earlier: the messages before the problem. choices: answers to choose from, in a column of their own. has_image: a
    column of images is filled.
    """

    problem: object
    answer: object
    problem_field: str
    answer_field: str
    earlier: tuple[Message, ...] = ()
    difficulty: object = None
    solution: object = None
    source: object = None
    id: object = None
    choices: object = None
    has_image: bool = False


_PREPARED = frozenset(("id", "problem", "answer", "source", "difficulty", "solution", "file", "row"))
_CHOICES = ("choices", "options")
_CONVERSATIONS = ("messages", "conversations")  # whole ones, of which an answer at the end is no part of the prompt
_IMAGES = ("images", "image", "decoded_image")


def read_fields(row: Mapping[str, Any], columns: Columns) -> Fields:
    """The row's values, whatever its layout. Raises ConversationError for a prompt that cannot be asked."""
    if row.keys() >= _PREPARED:
        earlier = tuple(Message(message["role"], message["content"]) for message in row.get("earlier") or ())
        return _fields(row, row, ("problem", row["problem"], earlier), "answer")
    row = {**row, **{name: decoded(row[name]) for name in ("reward_model", "extra_info") if name in row}}
    if "prompt" in row and isinstance(row.get("reward_model"), Mapping):
        extra = row["extra_info"] if isinstance(row.get("extra_info"), Mapping) else {}
        verl = "reward_model.ground_truth"
        own = (columns.answer,) if columns.answer != "answer" else ()
        references = ("extra_info.references",) if extra.get("references") else ()
        answer_field = _first(row, (*own, *references, verl), default=verl)
        named = columns.problem != "problem" and _at(row, columns.problem) is not MISSING
        question = _question(row, columns.problem if named else "prompt", columns)
        return _fields(row, {**extra, "source": row.get("data_source")}, question, answer_field)
    question = _question(row, _first(row, (columns.problem, "prompt", *_CONVERSATIONS)), columns)
    is_known = question[0] in ("prompt", *_CONVERSATIONS)
    solution = ("solution",) if is_known or columns.answer == "answer" else ()
    return _fields(row, row, question, _first(row, (columns.answer, *solution)))


_Question = tuple[str, object, tuple[Message, ...]]  # field, problem, the messages before it


def _question(row: Mapping[str, object], field: str, columns: Columns) -> _Question:
    """What a prompt asks, without the instructions around it; a column of bare problems is left as it is."""
    value = _at(row, field)
    problem, earlier = read_prompt(value, answered=field in _CONVERSATIONS)
    if isinstance(problem, str) and (field == "prompt" or problem is not value):
        problem = without_instruction(problem, columns.instruction)
    return field, problem, earlier


def _fields(row: Mapping[str, object], facts: Mapping[str, object], question: _Question, answer_field: str) -> Fields:
    """facts: what holds difficulty, source and id, which verl's layout keeps apart."""
    problem_field, problem, earlier = question
    return Fields(
        problem=problem,
        answer=_at(row, answer_field),
        problem_field=problem_field,
        answer_field=answer_field,
        earlier=earlier,
        difficulty=facts.get("difficulty"),
        solution=row.get("solution"),
        source=facts.get("source"),
        id=facts.get("id"),
        choices=next((row[name] for name in _CHOICES if row.get(name)), None),
        has_image=any(row.get(name) for name in _IMAGES),
    )


def _first(row: Mapping[str, object], paths: Sequence[str], default: str | None = None) -> str:
    """The first of some columns that the row has; `default`, or the first of all, when it has none."""
    return next((path for path in paths if _at(row, path) is not MISSING), default or paths[0])


def _at(row: Mapping[str, object], path: str) -> object:
    """The value of a column, or of one inside another: a column whose own name has dots comes first."""
    if path in row:
        return row[path]
    outer, dot, inner = path.partition(".")
    value = decoded(row.get(outer)) if dot else None
    return _at(value, inner) if isinstance(value, Mapping) else MISSING


def without_instruction(text: str, instruction: str = "") -> str:
    """The problem alone: known instructions (this recipe's, DeepScaleR's, DAPO's) before and after it are taken off."""
    text = text.strip().removeprefix(_DAPO_BEFORE).strip()
    for ending in (instruction, _DEEPSCALER_AFTER, _DAPO_AFTER):
        text = text.removesuffix(ending).rstrip() if ending else text
    return text


def write_layout(rows: Sequence[Mapping[str, Any]], layout: Layout, instruction: str, split: str) -> Iterator[dict]:
    """Prepared rows (prepare.SCHEMA) in another program's layout; `read_fields` gives the same problems back."""
    for number, row in enumerate(rows):
        content = f"{row['problem']} {instruction}" if instruction else row["problem"]
        earlier = [{"role": message["role"], "content": message["content"]} for message in row.get("earlier") or ()]
        prompt = [*earlier, {"role": "user", "content": content}]
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


def shown(value: object, limit: int = 80) -> str:
    """A value for a message: as JSON where it can be, truncated after `limit` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
