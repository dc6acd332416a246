"""The pairs a preparation matched, side by side in one HTML file. Problems are only text in it."""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Iterator, Sequence

from deepscaler.data.benchmarks import LoadedBenchmark
from deepscaler.data.contamination import Finding
from deepscaler.data.layouts import shown
from deepscaler.data.prepare import Preparation

MAX_PAIRS = 500  # of a section; the rest is counted, and listed in dropped.parquet
_MAX_SHOWN = 4000  # characters of a problem
# Colours, type and cards of the report's pages, which this layer cannot import; a test holds the colours together.
_STYLE = """
:root{--ink:#1c2430;--soft:#5b6573;--surface:#ffffff;--page:#f6f7f9;--line:#dde1e7;--mark:#fff1b8}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ee;--soft:#9aa5b4;--surface:#161b22;--page:#0d1117;--line:#2d343f;
--mark:#5a4a00}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);
font:15px/1.5 ui-sans-serif,system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif}
header,main{max-width:1240px;margin:0 auto;padding:0 24px}header{padding-top:28px}main{padding-bottom:48px}
.kicker{margin:0;color:var(--soft);font-size:13px}h1{font-size:26px;line-height:1.2;margin:2px 0 18px}
h2{font-size:18px;margin:34px 0 4px}p{margin:0 0 10px;color:var(--soft);font-size:13px}
table,.pair{background:var(--surface);border:1px solid var(--line);border-radius:8px}
table{width:100%;border-collapse:separate;border-spacing:0;padding:4px 18px 10px;font-variant-numeric:tabular-nums}
td,th{padding:7px 12px 7px 0;text-align:right;font-weight:400}td{border-top:1px solid var(--line)}
th{color:var(--soft);font-size:13px}td:first-child,th:first-child{text-align:left}
.pair{padding:14px 18px;margin:0 0 14px}.sides{display:grid;grid-template-columns:1fr 1fr;gap:24px;margin-top:8px}
.side{min-width:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:14px}
.where{color:var(--soft);font-size:13px;overflow-wrap:anywhere}
mark{background:var(--mark);color:inherit}
@media(max-width:720px){header,main{padding-left:12px;padding-right:12px}.sides{grid-template-columns:1fr}}
"""


def pair_page(done: Preparation, benchmarks: Sequence[LoadedBenchmark]) -> str:
    """HTML: benchmark problems in training rows, other questions in the same words, conflicts, duplicates."""
    found = [finding for finding in done.findings if finding.contaminates]
    similar = [finding for finding in done.findings if not finding.contaminates]
    similar.sort(key=lambda finding: -finding.jaccard)
    body = [
        '<header><p class="kicker">deepscaler · contamination</p><h1>Contamination and duplicates</h1></header><main>',
        *_summary(found, benchmarks),
        *_section(
            "Benchmark problems in the training rows", "These rows were dropped.", _findings(done, found), len(found)
        ),
        *_section(
            "Other questions in the same words",
            "Other numbers, or another quantity asked for: these rows stay.",
            _findings(done, similar),
            len(similar),
        ),
        *_section(
            "One problem, different answers",
            "Any of the answers may be the wrong one, so all of these rows were dropped.",
            _conflicts(done),
            sum(len(conflict.rows) - 1 for conflict in done.conflicts),
        ),
        *_section(
            "Duplicates among the training rows", "The left row stayed.", _duplicates(done), len(done.duplicates)
        ),
        "</main>",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    page = f"<body>{''.join(body)}</body>"
    title = "<title>Contamination and duplicates</title>"
    return f'<!doctype html><html lang="en"><head>{head}{policy}{title}<style>{_STYLE}</style></head>{page}</html>\n'


def _summary(found: Sequence[Finding], benchmarks: Sequence[LoadedBenchmark]) -> Iterator[str]:
    yield "<table><tr><th>benchmark</th><th>problems</th><th>found in training rows</th><th>training rows</th></tr>"
    for benchmark in benchmarks:
        mine = [finding for finding in found if finding.benchmark == benchmark.name]
        cells = (len(benchmark.problems), len({f.problem.id for f in mine}), len({f.row for f in mine}))
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        yield f"<tr><td>{_escape(benchmark.name)}</td>{numbers}</tr>"
    yield "</table>"


def _section(title: str, note: str, pairs: Iterator[str], count: int) -> Iterator[str]:
    yield f"<h2>{title}: {count}</h2><p>{note}"
    if count > MAX_PAIRS:
        yield f" Shown are the first {MAX_PAIRS}."
    yield "</p>"
    yield from pairs


def _findings(done: Preparation, findings: Sequence[Finding]) -> Iterator[str]:
    table = done.compared
    for finding in findings[:MAX_PAIRS]:
        row, problem = table.slice(finding.row, 1).to_pylist()[0], finding.problem
        how = f"{finding.match.value}, Jaccard {finding.jaccard:.2f}, containment {finding.containment:.2f}"
        left = (f"{row['file']} row {row['row']}", row["problem"], row["answer"])
        yield _pair(how, left, (problem.id, problem.prompt, problem.references))


def _conflicts(done: Preparation) -> Iterator[str]:
    for conflict in done.conflicts[:MAX_PAIRS]:
        first, *others = done.compared.take(list(conflict.rows)).to_pylist()
        for other in others:
            yield _pair("conflicting answers", _side(first), _side(other))


def _duplicates(done: Preparation) -> Iterator[str]:
    for link in done.duplicates[:MAX_PAIRS]:
        first, second = done.compared.take([link.first, link.second]).to_pylist()
        how = f"{link.match.value}, Jaccard {link.jaccard:.2f}, containment {link.containment:.2f}"
        yield _pair(how, _side(first), _side(second))


Half = tuple[str, str, Sequence[str]]  # place, problem, answers


def _side(row: dict) -> Half:
    return f"{row['file']} row {row['row']}", row["problem"], row["answer"]


def _pair(how: str, left: Half, right: Half) -> str:
    marked = _marked(left[1][:_MAX_SHOWN], right[1][:_MAX_SHOWN])
    sides = "".join(
        f'<div class="side"><div class="where">{_escape(f"{where}: answer {shown(list(answers))}")}</div>{text}</div>'
        for (where, _, answers), text in zip((left, right), marked, strict=True)
    )
    return f'<div class="pair"><div class="where">{_escape(how)}</div><div class="sides">{sides}</div></div>\n'


def _marked(left: str, right: str) -> tuple[str, str]:
    """Both texts as HTML, with what the other lacks marked."""
    a, b = re.findall(r"\s+|\w+|.", left), re.findall(r"\s+|\w+|.", right)
    parts: tuple[list[str], list[str]] = ([], [])
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for part, words in ((parts[0], a[a0:a1]), (parts[1], b[b0:b1])):
            text = _escape("".join(words))
            part.append(text if kind == "equal" or not text.strip() else f"<mark>{text}</mark>")
    return "".join(parts[0]), "".join(parts[1])


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
