"""Templates, style and content policy of every page."""

from __future__ import annotations

import base64
import hashlib
from functools import lru_cache
from importlib import resources
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from deepscaler.observability.files import write_atomically
from deepscaler.report import formatting
from deepscaler.report.palette import COLOURS, chart_css, page_variables


@lru_cache
def asset(name: str) -> str:
    """A file of this folder as text."""
    return resources.files("deepscaler.report").joinpath(name).read_text(encoding="utf-8")


def page_css() -> Markup:
    swatches = "".join(f".c-{name}{{--swatch:var(--{name})}}" for name in COLOURS)
    return Markup(f"{page_variables()}\n{swatches}\n{chart_css()}\n{asset('report.css')}")


def render_page(
    template: str, *, script: str = "", functions: dict[str, object] | None = None, **values: object
) -> str:
    """The page of a template of this folder. Everything in `values` is text and escaped, unless it is Markup."""
    environment = Environment(
        loader=FunctionLoader(asset), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals.update(functions or {})
    environment.filters.update(percent=formatting.percent, p_value=formatting.p_value)
    return environment.get_template(template).render(
        css=page_css(), script=Markup(script), script_hash=script_hash(script) if script else "", **values
    )


def write_page(html: str, out: Path) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    # Text from elsewhere may hold lone surrogates, which UTF-8 cannot; they become question marks.
    write_atomically(out, lambda path: path.write_bytes(html.encode("utf-8", errors="replace")))
    return out


def script_hash(script: str) -> str:
    """The hash by which the page's policy knows its own script and refuses every other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
