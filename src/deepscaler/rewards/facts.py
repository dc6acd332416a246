"""What a reward function is told about a completion: keyword arguments by name."""

from __future__ import annotations

from collections.abc import Mapping

from deepscaler.json_text import parse_json
from deepscaler.rewards.extract import CLOSE_THINK, OPEN_THINK, final_part
from deepscaler.types import Outcome, Problem, Rollout, ScoredGroup, Verdict


def facts_of_group(scored: ScoredGroup, *, thinking_prefilled: bool) -> list[dict[str, object]]:
    """One per completion, in order. thinking_prefilled: the chat template opened `<think>`."""
    return [
        facts_of(scored.group.problem, text, verdict, rollout, thinking_prefilled=thinking_prefilled)
        for rollout, text, verdict in zip(scored.group.rollouts, scored.texts, scored.verdicts, strict=True)
    ]


def facts_of(
    problem: Problem, text: str, verdict: Verdict, rollout: Rollout | None, *, thinking_prefilled: bool
) -> dict[str, object]:
    """The names of `loading.OFFERED`, and the row's other columns. rollout: None for a completion from a file.

    completion: the whole text. thinking: inside `<think>`, empty without. response: after it, None where the thinking
    never ends. answer: what the grader extracted, None where it found none.
    """
    columns = parse_json(problem.columns) if problem.columns else {}
    assert isinstance(columns, Mapping)
    thinking = thinking_of(text, thinking_prefilled=thinking_prefilled)
    return {
        **columns,
        "problem_id": problem.id,
        "prompt": problem.prompt,
        "references": list(problem.references),
        "source": problem.source,
        "difficulty": problem.difficulty,
        "completion": text,
        "thinking": thinking,
        "response": final_part(text, thinking_prefilled=thinking_prefilled).answer,
        "answer": verdict.answer,
        "outcome": verdict.outcome.value,
        "correct": verdict.outcome is Outcome.CORRECT,
        "num_tokens": None if rollout is None else rollout.num_tokens,
        "truncated": verdict.outcome is Outcome.TRUNCATED if rollout is None else rollout.truncated,
    }


def thinking_of(text: str, *, thinking_prefilled: bool) -> str:
    """What is before the last `</think>`, without tags; all of it where the thinking never ends."""
    before, closed, _ = text.rpartition(CLOSE_THINK)
    if not closed:
        before = text if thinking_prefilled or OPEN_THINK in text else ""
    return before.removeprefix(OPEN_THINK).strip()
