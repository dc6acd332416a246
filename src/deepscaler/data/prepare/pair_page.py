"""The pairs a preparation matched, side by side in one HTML file. Problems are only text in it."""

from __future__ import annotations

import difflib
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from deepscaler.data.benchmarks.load import LoadedBenchmark
from deepscaler.data.prepare.contamination import Finding
from deepscaler.data.prepare.preparation import Preparation
from deepscaler.data.prepare.similarity import Match

MAX_PAIRS = 500  # of a section; the rest is counted, and listed in dropped.parquet
_MAX_SHOWN = 4000  # characters of a problem
_MAX_ANSWER = 200
_TOKEN = re.compile(r"\s+|\\?[^\W\d_]+|\d+|.")  # of a text with LaTeX: spaces, a command or word, a number, a sign
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
h2{font-size:18px;margin:34px 0 4px}
nav{margin:14px 0 0;font-size:14px}nav a{color:inherit;margin-right:18px;display:inline-block}
p{margin:0 0 10px;color:var(--soft);font-size:13px}
table,.pair{background:var(--surface);border:1px solid var(--line);border-radius:8px}
table{width:100%;border-collapse:separate;border-spacing:0;padding:4px 18px 10px;font-variant-numeric:tabular-nums}
td,th{padding:7px 12px 7px 0;text-align:right;font-weight:400}td{border-top:1px solid var(--line)}
th{color:var(--soft);font-size:13px}td:first-child,th:first-child{text-align:left}
.pair{padding:14px 18px;margin:0 0 14px}.sides{display:grid;grid-template-columns:1fr 1fr;gap:24px;margin-top:8px}
.side{min-width:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:14px}
.where{color:var(--soft);font-size:13px;overflow-wrap:anywhere;white-space:normal;margin-bottom:4px}
.whole{grid-column:1/-1}.answer{color:var(--ink)}
mark{background:var(--mark);color:inherit}
@media(max-width:720px){header,main{padding-left:12px;padding-right:12px}.sides{grid-template-columns:1fr}}
"""


@dataclass(frozen=True, slots=True)
class Section:
    """count: of all its pairs, of which `pairs` holds the first MAX_PAIRS as HTML."""

    title: str
    note: str
    count: int
    pairs: Iterator[str]


def pair_page(done: Preparation, benchmarks: Sequence[LoadedBenchmark]) -> str:
    """HTML: benchmark problems in training rows, other questions in the same words, conflicts, duplicates."""
    found = [finding for finding in done.findings if finding.contaminates]
    similar = [finding for finding in done.findings if not finding.contaminates]
    similar.sort(key=lambda finding: -finding.jaccard)
    sections = (
        Section(
            "Benchmark problems in the training rows", "These rows were dropped.", len(found), _findings(done, found)
        ),
        Section(
            "Other questions in the same words",
            "Other numbers, or another quantity asked for: these rows stay.",
            len(similar),
            _findings(done, similar),
        ),
        Section(
            "One problem, different answers",
            "Any of the answers may be the wrong one, so all of these rows were dropped.",
            sum(len(conflict.rows) - 1 for conflict in done.conflicts),
            _conflicts(done),
        ),
        Section(
            "Duplicates among the training rows",
            "Of each pair the first row stayed. Those whose texts differ come first.",
            len(done.duplicates),
            _duplicates(done),
        ),
    )
    body = [
        '<header><p class="kicker">deepscaler · contamination</p><h1>Contamination and duplicates</h1></header><main>',
        *_summary(found, benchmarks),
        *_contents(sections),
        *(part for number, section in enumerate(sections) for part in _section(number, section)),
        "</main>",
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
    policy = "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
    page = f"<body>{''.join(body)}</body>"
    title = "<title>Contamination and duplicates</title>"
    return f'<!doctype html><html lang="en"><head>{head}{policy}{title}<style>{_STYLE}</style></head>{page}</html>\n'


def _summary(found: Sequence[Finding], benchmarks: Sequence[LoadedBenchmark]) -> Iterator[str]:
    yield "<table><tr><th>benchmark</th><th>problems</th><th>found in training rows</th><th>rows dropped</th></tr>"
    for benchmark in benchmarks:
        mine = [finding for finding in found if finding.benchmark == benchmark.name]
        cells = (len(benchmark.problems), len({f.problem.id for f in mine}), len({f.row for f in mine}))
        numbers = "".join(f'<td class="number">{cell}</td>' for cell in cells)
        yield f"<tr><td>{_escape(benchmark.name)}</td>{numbers}</tr>"
    yield "</table>"


def _contents(sections: Sequence[Section]) -> Iterator[str]:
    yield "<nav>"
    for number, section in enumerate(sections):
        yield f'<a href="#s{number}">{section.title}: {section.count}</a> '
    yield "</nav>"


def _section(number: int, section: Section) -> Iterator[str]:
    yield f'<h2 id="s{number}">{section.title}: {section.count}</h2><p>{section.note if section.count else "None."}'
    if section.count > MAX_PAIRS:
        yield f" The first {MAX_PAIRS} follow."
    yield "</p>"
    yield from section.pairs


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
    for link in sorted(done.duplicates, key=lambda link: link.match is Match.VERBATIM)[:MAX_PAIRS]:
        first, second = done.compared.take([link.first, link.second]).to_pylist()
        how = f"{link.match.value}, Jaccard {link.jaccard:.2f}, containment {link.containment:.2f}"
        yield _pair(how, _side(first), _side(second))


Half = tuple[str, str, Sequence[str]]  # place, problem, answers


def _side(row: dict) -> Half:
    return f"{row['file']} row {row['row']}", row["problem"], row["answer"]


def _pair(how: str, left: Half, right: Half) -> str:
    texts = left[1][:_MAX_SHOWN], right[1][:_MAX_SHOWN]
    if left[1] == right[1]:
        sides = "".join(f'<div class="side">{_where(side)}</div>' for side in (left, right))
        sides += f'<div class="side whole">{_escape(texts[0])}</div>'
    else:
        marked = zip((left, right), _marked(*texts), strict=True)
        sides = "".join(f'<div class="side">{_where(side)}{text}</div>' for side, text in marked)
    return f'<div class="pair"><div class="where">{_escape(how)}</div><div class="sides">{sides}</div></div>\n'


def _where(side: Half) -> str:
    where, _, answers = side
    shown = [answer if len(answer) <= _MAX_ANSWER else f"{answer[: _MAX_ANSWER - 1]}…" for answer in answers]
    answer = _escape(" or ".join(shown))
    return f'<div class="where">{_escape(where)}, answer <span class="answer">{answer}</span></div>'


def _marked(left: str, right: str) -> tuple[str, str]:
    """Both texts as HTML, with what the other lacks marked."""
    a, b = _TOKEN.findall(left), _TOKEN.findall(right)
    parts: tuple[list[str], list[str]] = ([], [])
    for kind, a0, a1, b0, b1 in difflib.SequenceMatcher(None, a, b, autojunk=False).get_opcodes():
        for part, words in ((parts[0], a[a0:a1]), (parts[1], b[b0:b1])):
            text = _escape("".join(words))
            part.append(text if kind == "equal" or not text.strip() else f"<mark>{text}</mark>")
    return "".join(parts[0]), "".join(parts[1])


def _escape(text: str) -> str:
    return html.escape(text, quote=True)
