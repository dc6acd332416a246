"""One set of colours for report and figure: the same thing has the same colour everywhere.

Right is teal and wrong is orange, which stay apart for readers who cannot tell red from green.
"""

from __future__ import annotations

# name: (on a light background, on a dark one)
COLOURS: dict[str, tuple[str, str]] = {
    "correct": ("#0f766e", "#2dd4bf"),
    "wrong": ("#c2410c", "#fb923c"),
    "truncated": ("#6d4fc4", "#ab98ff"),
    "no_answer": ("#64748b", "#94a3b8"),
    "timeout": ("#be185d", "#f472b6"),
    "grader_failed": ("#3f3f46", "#d4d4d8"),
    "bad_reference": ("#8a6d1f", "#d8b64c"),
    "accent": ("#2459c4", "#7fabff"),
    "second": ("#a16207", "#e3b341"),
    "muted": ("#6b7280", "#8b95a5"),
    "run-0": ("#2459c4", "#7fabff"),
    "run-1": ("#b4236b", "#f587b8"),
    "run-2": ("#4d7c0f", "#a3d65c"),
    "run-3": ("#92500a", "#e8a95b"),
    "run-4": ("#0e7490", "#56d0e8"),
    "run-5": ("#6d4fc4", "#ab98ff"),
}
NUM_RUN_COLOURS = sum(name.startswith("run-") for name in COLOURS)

# Surfaces and text of a chart.
PAPER = {
    "ink": ("#1c2430", "#e4e8ee"),
    "soft": ("#5b6573", "#9aa5b4"),
    "grid": ("#e6e9ee", "#2b323c"),
    "axis": ("#aab2bd", "#4d5766"),
    "band": ("#f5f7fa", "#1c222b"),
    "surface": ("#ffffff", "#161b22"),
    "page": ("#f6f7f9", "#0d1117"),
    "line": ("#dde1e7", "#2d343f"),
}
FONT = "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, Helvetica, Arial, sans-serif"


def chart_css(selector: str = "") -> str:
    """Rules for both colour schemes, without CSS variables: not every viewer of SVG files knows them."""
    return f"{_rules(selector, 0)}\n@media (prefers-color-scheme: dark) {{\n{_rules(selector, 1)}\n}}"


def page_variables() -> str:
    """The same colours as CSS variables, for the page around the charts."""

    def block(scheme: int) -> str:
        pairs = {**PAPER, **COLOURS}
        return ":root{" + "".join(f"--{name}:{both[scheme]};" for name, both in pairs.items()) + "}"

    return f"{block(0)}\n@media (prefers-color-scheme: dark) {{{block(1)}}}"


def _rules(selector: str, scheme: int) -> str:
    rules = []
    for name, both in COLOURS.items():
        colour = both[scheme]
        head = f"{selector} .c-{name}".strip()
        rules.append(f"{head}.stroke{{stroke:{colour}}}{head}.fill{{fill:{colour}}}")
    for name, both in PAPER.items():
        head = f"{selector} .p-{name}".strip()
        rules.append(f"{head}.stroke{{stroke:{both[scheme]}}}{head}.fill{{fill:{both[scheme]}}}")
    return "\n".join(rules)
