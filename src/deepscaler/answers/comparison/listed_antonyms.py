"""Lists of equal numbers that say different things: 6 red and 4 blue, 4 red and 6 blue; p and q, p or q."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from deepscaler.answers.kinds import Answer, Choice, Items, Prose, Reals, Record, Relation, Scalar
from deepscaler.answers.tokens.vocabulary import AND, OR
from deepscaler.answers.units.parse import COUNT
from deepscaler.answers.units.words import UNITS


def contrary_lists(
    answers: Sequence[Answer], left: Sequence[str], references: Sequence[Answer], right: Sequence[str]
) -> str:
    """What the lists, of which also the values of their tokens are given, do not share; "" for nothing."""
    if any(map(_counts_things, answers)) and any(map(_counts_things, references)):
        return _contrary_counts(left, right)
    if any(map(_states, answers)) and any(map(_states, references)):
        either = [any(value.lower() in OR for value in values) for values in (left, right)]
        return "and/or" if either[0] != either[1] else ""
    return ""


def _counts_things(answer: Answer) -> bool:
    if not isinstance(answer, Items) or len(answer.items) < 2:
        return False
    return all(isinstance(item, Scalar) and item.unit == COUNT for item in answer.items)


def _states(answer: Answer) -> bool:
    """Whether "and" and "or" between its parts differ: statements, letters and words, but not values of one name.

    The coordinates of a point hold together.
    """
    if isinstance(answer, Items) and answer.kind == "list":
        return any(map(_is_statement, answer.items))
    return isinstance(answer, Record) or (isinstance(answer, Items) and answer.kind == "tuple")


def _is_statement(item: Answer) -> bool:
    if isinstance(item, Scalar):
        return item.tree[0] == "sym"
    return isinstance(item, (Choice, Prose, Reals, Relation))


def _contrary_counts(left: Sequence[str], right: Sequence[str]) -> str:
    """Counts of different things that go to other things: 6 red and 4 blue, 4 red and 6 blue; "" for none."""
    counts, others = _counts(left), _counts(right)
    if len(counts) < 2 or len(counts) != len(others):
        return ""
    if {w for _, words in counts for w in words}.isdisjoint(w for _, words in others for w in words):
        return ""  # none said on one side, or in another language
    for number, words in counts:
        partner = next((i for i, (n, w) in enumerate(others) if n == number and (words <= w or w <= words)), None)
        if partner is None:
            return f"{number} {' '.join(sorted(words))}".strip()
        del others[partner]
    return ""


def _counts(values: Sequence[str]) -> list[tuple[str, frozenset[str]]]:
    """Every number with the words behind it, except units and words that follow several of them."""
    counts: list[tuple[str, set[str]]] = []
    for value in values:
        if value[:1].isdigit():
            counts.append((value, set()))
        elif counts and len(value) > 1 and value.isalpha() and not (value in UNITS or value in AND or value in OR):
            counts[-1][1].add(value.removesuffix("s"))
    times = Counter(word for _, words in counts for word in words)
    return [(number, frozenset(word for word in words if times[word] == 1)) for number, words in counts]
