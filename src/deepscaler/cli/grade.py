"""What `deepscaler grade` does: verdicts on a file of completions, or one verdict explained step by step."""

from __future__ import annotations

import itertools
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from deepscaler.cli.grade_rows import Columns, Row, read_rows
from deepscaler.config.sections.evaluation import GraderSection
from deepscaler.loop.progress import Progress, duration
from deepscaler.observability.counts import counted
from deepscaler.observability.files import write_atomically
from deepscaler.rewards.extract import extract_answer, final_part
from deepscaler.rewards.isolation.pool import GraderPool, make_grader
from deepscaler.rewards.registry import REWARDS
from deepscaler.types import GradeItem, Outcome, Verdict

ROWS_AT_ONCE = 256  # per worker
SHOWN_CHARACTERS = 1000


def grade_file(
    path: Path,
    *,
    out: Path | None,
    columns: Columns,
    profile: str,
    answer_rules: tuple[str, ...],
    thinking_prefilled: bool,
    workers: int,
) -> None:
    """Grade every row of `path` and write one line per row to `out`, whole or not at all; print the outcomes.

    Raises ValueError for a row that cannot be graded, before anything is graded or written.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends like Ctrl-C: no half file
    _check_out(path, out)
    progress = Progress(sys.stderr)
    num_rows = 0
    for num_rows, _ in enumerate(read_rows(path, columns, thinking_prefilled=thinking_prefilled), start=1):
        progress.update(f"checking row {num_rows:,}")
    if not num_rows:
        raise ValueError(f"{path}: no rows; the file is empty")
    verdicts: Counter[Outcome] = Counter()
    cached = 0
    start = time.monotonic()
    with _pool(profile, workers, answer_rules) as pool:

        def write(target: Path | None) -> None:
            nonlocal cached
            rows = read_rows(path, columns, thinking_prefilled=thinking_prefilled)
            with nullcontext() if target is None else target.open("x", encoding="ascii") as file:
                for batch in _batches(rows, ROWS_AT_ONCE * workers):
                    graded = pool.grade([row.item for row in batch])
                    if file is not None:
                        file.writelines(_line(row, verdict) for row, verdict in zip(batch, graded, strict=True))
                    verdicts.update(v.outcome for v in graded)
                    cached += sum(v.cached for v in graded)
                    done, seconds = verdicts.total(), time.monotonic() - start
                    left = (num_rows - done) * seconds / done
                    progress.update(
                        f"graded {done:,} of {num_rows:,}  {done / seconds:,.0f}/s  "
                        f"correct {verdicts[Outcome.CORRECT] / done:.1%}  left {duration(left)}",
                        force=done == num_rows,
                    )

        if out is None:
            write(None)
        else:
            write_atomically(out, write)
    progress.message("")
    _print_summary(verdicts, cached, time.monotonic() - start)
    if out is not None:
        print(f"written to {out}")


def explain(
    text: str,
    *,
    references: Sequence[str],
    profile: str,
    answer_rules: tuple[str, ...],
    thinking_prefilled: bool,
    tolerance: float | None = None,
) -> None:
    """Print how the verdict on one completion comes about: final part, answer, reading, comparison, outcome."""
    with _pool(profile, 1, answer_rules) as pool:
        verdict = pool.grade([GradeItem(text, references, thinking_prefilled, tolerance)])[0]
        print(f"1 completion   {counted(len(text), 'character')}")
        final = final_part(text, thinking_prefilled=thinking_prefilled)
        print(f"2 final part   {_final_words(text, final.answer, final.why)}")
        answer = extract_answer(text, thinking_prefilled=thinking_prefilled, rules=answer_rules)
        print(f"3 answer       {_shown(answer.answer) if answer.answer is not None else f'none: {answer.why}'}")
        bare = answer.answer is None and "boxed" in answer_rules and "\\boxed" not in text and final.answer is not None
        decided = verdict.outcome in (Outcome.CORRECT, Outcome.WRONG)
        if decided and answer.answer is not None:  # what took too long or failed in the worker is not tried here
            _print_comparisons(answer.answer, references, profile, tolerance)
        print(f"verdict        {verdict.outcome.value} (reward {verdict.reward:g}) in {verdict.seconds * 1000:.1f} ms")
        print(f"why            {_shown(verdict.detail)}")
        if bare:
            boxed = pool.grade([GradeItem(f"\\boxed{{{text}}}", references, False, tolerance)])[0]
            print(f"inside a box   this text would be {boxed.outcome.value}: {_shown(boxed.detail)}")


def completion_text(argument: str) -> str:
    """The completion itself, or the content of standard input (`-`) or of the file it names."""
    if argument == "-":
        return sys.stdin.read()
    # A completion may be longer than any path and hold characters no path can: never ask the file system
    # about it.
    if "\n" not in argument and len(argument) < 1000 and "\0" not in argument and Path(argument).is_file():
        return Path(argument).read_text(encoding="utf-8")
    return argument


def _final_words(text: str, final: str | None, why: str) -> str:
    if final is None:
        return f"none: {why}"
    return "the whole text" if final == text else f"{counted(len(final), 'character')} after the last </think>"


def _print_comparisons(answer: str, references: Sequence[str], profile: str, tolerance: float | None) -> None:
    for number, reference in enumerate(references, start=1):
        print(
            f"4 reference {number}  of {len(references)}" + ("" if tolerance is None else f", tolerance {tolerance:g}")
        )
        for line in REWARDS[profile].explain(answer, reference, tolerance):
            print(f"    {_shown(line)}")


def _shown(text: str) -> str:
    """For a terminal: on one line, without control characters or broken Unicode, truncated when very long."""
    kept = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}… ({counted(len(text), 'character')})"
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in kept)


def _pool(profile: str, workers: int, answer_rules: tuple[str, ...]) -> GraderPool:
    return make_grader(GraderSection(profile=profile, workers=workers, answer=answer_rules))


def _check_out(path: Path, out: Path | None) -> None:
    """Everything that would keep `out` from being written is found before the work."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file")
    if out is None:
        return
    if out.is_dir() or not out.parent.is_dir():
        what = "is a directory" if out.is_dir() else f"cannot be written: there is no directory {out.parent}"
        raise ValueError(f"{out} {what}; --out names a file in a directory that exists")
    if out.exists() and out.samefile(path):
        raise ValueError(f"{out} is the file to grade; --out needs another name")


def _batches(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _line(row: Row, verdict: Verdict) -> str:
    content = {
        "id": row.id,
        "verdict": verdict.outcome.value,
        "seconds": round(verdict.seconds, 6),
        "answer": verdict.answer,
        "detail": verdict.detail,
    }
    return json.dumps(content) + "\n"


def _print_summary(verdicts: Counter[Outcome], cached: int, seconds: float) -> None:
    total = verdicts.total()
    for outcome in Outcome:
        print(f"{outcome.value:<14}{verdicts[outcome]:>10,}{verdicts[outcome] / total:>9.1%}")
    print(f"{'rows':<14}{total:>10,}   {cached:,} from the cache, {total / seconds:,.0f} verdicts/s")
