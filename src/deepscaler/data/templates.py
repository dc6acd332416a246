"""Prompts through the tokenizer's chat template."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from deepscaler.types import IntArray, Problem


@dataclass(frozen=True, slots=True)
class EncodedProblem:
    problem: Problem
    prompt_ids: IntArray


def format_question(problem: Problem, instruction: str) -> str:
    """The user message: the problem, a space, the instruction (RECIPE §5); nothing is added for an empty one."""
    return f"{problem.prompt} {instruction}" if instruction else problem.prompt


def render_prompt(tokenizer: Any, question: str) -> tuple[IntArray, bool]:
    """(prompt ids int32, whether the template opened `<think>` for the model)."""
    messages = [{"role": "user", "content": question}]
    if not tokenizer.chat_template:
        raise ValueError("the tokenizer has no chat template; put the model's chat_template.jinja beside it")
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.array(ids, dtype=np.int32), text.rstrip().endswith("<think>")


def template_hash(tokenizer: Any) -> str:
    return hashlib.sha256(tokenizer.chat_template.encode()).hexdigest()


def encode_problems(
    problems: Sequence[Problem], tokenizer: Any, instruction: str, max_prompt_tokens: int
) -> tuple[list[EncodedProblem], list[Problem]]:
    """(problems that fit with their ids, problems dropped as too long). Raises ValueError when none fits."""
    kept, dropped = [], []
    for problem in problems:
        ids, _ = render_prompt(tokenizer, format_question(problem, instruction))
        if len(ids) <= max_prompt_tokens:
            kept.append(EncodedProblem(problem, ids))
        else:
            dropped.append(problem)
    if not kept:
        raise ValueError(f"all {len(dropped)} prompts exceed data.max_prompt_tokens = {max_prompt_tokens}; raise it")
    return kept, dropped
