"""Merges recipe files, presets and --set into one table with the origin of every value."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from datetime import date, time
from pathlib import Path
from typing import Any

from deepscaler.config.schema import RecipeError
from deepscaler.json_text import flattened

ORIGIN_DEFAULT = "default"
ORIGIN_SET = "--set"
_PACKAGE = Path(__file__).parents[1]
# Recipes that come with the package: in it after an ordinary installation, else in the checkout.
SHIPPED = next((p for p in (_PACKAGE / "recipes", _PACKAGE.parents[1] / "recipes") if p.is_dir()), _PACKAGE / "recipes")


class Layers:
    """The merged table so far. `origins` holds every leaf, and every table or array set as a whole."""

    def __init__(self) -> None:
        self.table: dict[str, Any] = {}
        self.origins: dict[str, str] = {}

    def merge(self, table: Mapping[str, object], origin: str) -> None:
        """Merge `table` over this one: tables key by key, everything else is replaced."""
        self._merge_into(self.table, table, origin, "")

    def _merge_into(self, target: dict[str, Any], source: Mapping[str, object], origin: str, prefix: str) -> None:
        for name, value in source.items():
            key = f"{prefix}{name}"
            if not isinstance(value, Mapping):
                self._replace(target, name, key, value, origin)
                continue
            if not isinstance(target.get(name), dict):
                self._replace(target, name, key, {}, origin)
            self._merge_into(target[name], value, origin, key + ".")

    def _replace(self, target: Any, name: str | int, key: str, value: object, origin: str) -> None:
        for leaf, inner in flattened(value, key):
            if isinstance(inner, date | time):  # datetime is a date
                raise RecipeError(f"{_bare(origin)}: {leaf}: no setting takes a date or time, given {inner}")
        target[name] = value
        for old in [k for k in self.origins if k == key or k.startswith(key + ".")]:
            del self.origins[old]
        self.origins[key] = origin
        self.origins.update((leaf, origin) for leaf, _ in flattened(value, key))

    def override(self, text: str) -> None:
        """Apply one `a.b=value`; `stages.0.steps=5` reaches into an array."""
        key, separator, raw = (part.strip() for part in text.partition("="))
        if not separator or not key:
            raise RecipeError(f"--set {text}: expected KEY=VALUE, for example --set rollout.group_size=16")
        target: Any = self.table
        parts = key.split(".")
        for depth, part in enumerate(parts[:-1]):
            name = _index(target, part, parts[:depth], text)
            if isinstance(target, dict) and name not in target:
                self._replace(target, name, ".".join(parts[: depth + 1]), {}, ORIGIN_SET)
            target = target[name]
        name = _index(target, parts[-1], parts[:-1], text)
        self._replace(target, name, key, parse_value(raw), ORIGIN_SET)

    def put_below(self, table: Mapping[str, object], origin: str) -> None:
        """Merge `table` under this one: only missing values are added."""
        below = Layers()
        below.merge(table, origin)
        given, origins = self.table, self.origins
        below.merge(given, "given")
        self.table = below.table
        self.origins = {**{k: o for k, o in below.origins.items() if o == origin}, **origins}

    def origin(self, key: str) -> str:
        """The origin of a leaf; `default` when nothing set it."""
        return self.origins.get(key, ORIGIN_DEFAULT)

    def place(self, key: str, otherwise: str) -> str:
        """Origin of a wrong or missing key: its own, or that of the nearest enclosing table."""
        parts = key.split(".")
        around = (".".join(parts[:size]) for size in range(len(parts), 0, -1))
        return next((self.origins[k] for k in around if k in self.origins), otherwise)


def _index(target: object, part: str, above: list[str], text: str) -> str | int:
    """The table key or array index that `part` names."""
    if isinstance(target, dict):
        return part
    name = ".".join(above)
    if not isinstance(target, list):
        raise RecipeError(f"--set {text}: {name} is a single value ({target!r}) and has no {part!r} inside")
    if not part.isdecimal() or int(part) >= len(target):
        entries = ", ".join(f"{name}.{index}" for index in range(len(target))) or "none"
        raise RecipeError(f"--set {text}: {name} is an array, its entries are: {entries}")
    return int(part)


def parse_value(raw: str) -> object:
    """The TOML value of a text, or the text itself if it is not TOML: `--set model.path=some/dir` needs no quotes."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    return parsed["value"] if parsed.keys() == {"value"} else raw


def _bare(origin: str) -> str:
    return origin.removeprefix("file:")


def find_recipe(path: Path) -> Path:
    """The file, or the recipe of that name that comes with the package: `quickstart`, `recipes/quickstart.toml`."""
    if path.exists() or path.parent not in (Path(), Path("recipes")):
        return path
    shipped = SHIPPED / path.name
    return next((file for file in (shipped, shipped.with_name(f"{path.name}.toml")) if file.is_file()), path)


def read_chain(path: Path) -> list[tuple[Path, dict[str, object]]]:
    """The file and all files it extends, the furthest first. `extends` is relative to the file that has it."""
    chain: list[tuple[Path, dict[str, object]]] = []
    seen: list[Path] = []
    current: Path | None = find_recipe(path)
    while current is not None:
        identity = current.resolve()
        if identity in seen:
            circle = " -> ".join(p.name for p in [*seen[seen.index(identity) :], identity])
            raise RecipeError(f"{path}: `extends` forms a cycle: {circle}; remove one of these lines")
        seen.append(identity)
        table = _read(current, chain[-1][0] if chain else None)
        base = table.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise RecipeError(f"{current}: extends: expected the path of one recipe, given {base!r}")
        chain.append((current, table))
        current = current.parent / base if base is not None else None
    return chain[::-1]


def _read(path: Path, wanted_by: Path | None) -> dict[str, object]:
    by = f" (named by `extends` in {wanted_by})" if wanted_by else ""
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except FileNotFoundError:
        near = ", ".join(sorted(p.name for p in path.parent.glob("*.toml"))) if path.parent.is_dir() else ""
        hint = f"; recipes in that folder: {near}" if near else ""
        if not hint:
            hint = f"; recipes of this package: {', '.join(sorted(p.stem for p in SHIPPED.glob('*.toml')))}"
        raise RecipeError(f"{path}: no such recipe{by}{hint}") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe{by}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise RecipeError(f"{path}, line {line}: not UTF-8; save the file as UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        at = re.search(r" \(at (line \d+, column \d+|end of document)\)", str(error))
        place = f"{path}, {at[1]}" if at else f"{path}"
        what = str(error)[: at.start()] if at else str(error)
        raise RecipeError(f"{place}: not valid TOML: {what}") from None
