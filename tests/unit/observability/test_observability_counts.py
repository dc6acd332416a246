"""Counts stand with the noun in the right number, in every text of the program."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from deepscaler.observability.counts import counted

SOURCE = Path(__file__).parents[3] / "src" / "deepscaler"
NOUNS = (
    "problems|rows|samples|tokens|steps|files|groups|prompts|completions|benchmarks|seconds|answers|pairs|requests|"
    "devices|workers|processes|threads|cores|layers|weights|questions|duplicates|entries|lines|fields|values|"
    "references|bytes|characters|words|errors|warnings|findings|attempts|updates|verdicts|batches|blocks|hours|"
    "minutes|days"
)
ADJECTIVES = "different|held-out|more|solved|training|usable"
COUNT = re.compile(rf" (?:(?:{ADJECTIVES}) )?(?:{NOUNS})\b")

# Never 1, with the reason. Constants in capitals are none of them 1.
NEVER_ONE = {
    "{stage.steps} steps": "a stage that is cut short has two steps or more",
    "{longest} tokens": "a prompt and a completion",
    "{completions} completions": "of an update: groups of two or more",
    "{len(problems)} rows": "of a registered benchmark",
    "{len(problems)} references": "of a registered benchmark",
    "{len(reviews)} rows": "of a registered benchmark, on a page made once",
    "{changed} references": "of a registered benchmark, on a page made once",
    "{len(problem)} characters": "more than the most that a problem may have",
    "{counts.max()} samples": "more than the fewest that a problem has",
    "{number} completions": "the other branch says: the one completion",
    "{_of(unknown, total)} completions": "`all`, or a part of two or more",
    "{_of(outcomes[outcome.value], total)} completions": "`all`, or a part of two or more",
    "{len(repeated)} completions": "one of them repeats another",
    "{len(files)} files": "listed by the index of a model in several files",
    "{edge} steps": "the other branch says: first and last step",
    "{window} steps": "nothing is said of a window of 1",
    "{_span(stage.shortest_prompt, stage.longest_prompt)} tokens": "a span of lengths",
    "{', '.join(parts)} problems": "each is `4 of 30`, of a registered benchmark",
    "{value} samples": "a setting that samples, no count",
    "{total / seconds} verdicts": "a speed, which is rounded",
    "{count} blocks": "an assertion of ours, not a message",
    "{self._most_bytes} bytes": "the bound of a reply",
    "{capacity} tokens": "a model's context; clients read the number from this sentence",
    "{self.capacity} tokens": "a model's context; clients read the number from this sentence",
}


def bare_counts(source: str) -> Iterator[str]:
    """Every `{number} nouns` of the f-strings of a source."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.JoinedStr):
            continue
        for value, text in zip(node.values, node.values[1:], strict=False):
            if not (isinstance(value, ast.FormattedValue) and isinstance(text, ast.Constant)):
                continue
            expression, found = ast.unparse(value.value), COUNT.match(str(text.value))
            if found and not re.search(r"\b[A-Z][A-Z_]+$", expression):
                yield f"{{{expression}}}{found[0]}"


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 problems"), (1, "1 problem"), (2, "2 problems"), (1234, "1,234 problems")]
)
def test_a_count_has_its_noun_in_the_right_number(number: int, words: str) -> None:
    assert counted(number, "problem") == words


def test_a_plural_of_its_own() -> None:
    assert [counted(n, "process", "processes") for n in (1, 2)] == ["1 process", "2 processes"]


def test_the_scan_finds_counts_in_f_strings() -> None:
    source = 'f"{n} problems, {len(rows):,} training rows, {name} is for benchmarks, {MAX_TOKENS} tokens"'
    assert list(bare_counts(source)) == ["{n} problems", "{len(rows)} training rows"]


def test_no_text_of_the_program_can_say_1_problems() -> None:
    found = {
        count: str(path.relative_to(SOURCE))
        for path in sorted(SOURCE.rglob("*.py"))
        for count in bare_counts(path.read_text())
    }
    assert {count: file for count, file in found.items() if count not in NEVER_ONE} == {}, "use counts.counted"
    assert NEVER_ONE.keys() <= found.keys(), "no longer there; take it off the list"
