"""Code of the user's: a function by `FILE.py:NAME` or `MODULE:NAME`, its sources, and tracebacks of its own frames.

Standard library only, as reward functions are imported in processes of their own.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from deepscaler.json_text import canonical_digest

MAX_TRACEBACK_CHARACTERS = 4000
_PACKAGE = str(Path(__file__).resolve().parent)


class LoadError(Exception):
    """The function cannot be used; the message says why, in one line. `trace`: of its own code, where that failed."""

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


def find(module: ModuleType, place: str, name: str) -> Callable[..., Any]:
    """The function of this name in a module that was imported from `place`. Raises LoadError."""
    function = getattr(module, name, None)
    if function is None:
        there = [n for n, v in vars(module).items() if inspect.isfunction(v) and v.__module__ == module.__name__]
        raise LoadError(f"{place} has no function {name!r}; it has {', '.join(there) or 'none'}")
    if not callable(function):
        raise LoadError(f"{name} in {place} is a {type(function).__name__}, not a function")
    return function


def import_place(place: str) -> ModuleType:
    """The module of a file (`.py`) or of a dotted name. Raises LoadError with the place where the import failed."""
    try:
        if not place.endswith(".py"):
            sys.path.append(str(Path.cwd()))
            return importlib.import_module(place)
        file = Path(place).absolute()
        if not file.is_file():
            raise LoadError(f"{place} does not exist")
        sys.path.insert(0, str(file.parent))
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None and spec.loader is not None
        module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    except LoadError:
        raise
    except ModuleNotFoundError as error:
        if error.name and place.split(".")[0] == error.name.split(".")[0] and not place.endswith(".py"):
            raise LoadError(f"there is no module {error.name!r} in this environment or folder") from error
        raise LoadError(f"{place} does not import: {_said(error)}{_where(error, place)}", trace_of(error)) from error
    except (Exception, SystemExit) as error:
        raise LoadError(f"{place} does not import: {_said(error)}{_where(error, place)}", trace_of(error)) from error


def sources_of(module: ModuleType, place: str) -> dict[str, str]:
    """SHA-256 of the module's file, and, where it is one of the user's own folder, of what it imported from there."""
    own = getattr(module, "__file__", None)
    if own is None:
        return {}
    files = {Path(own)}
    if place.endswith(".py"):
        folder = Path(own).parent
        loaded = (getattr(m, "__file__", None) for m in list(sys.modules.values()))
        files |= {Path(file) for file in loaded if file and Path(file).parent == folder}
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files) if file.is_file()}


def own_code_digest(path: str) -> str:
    """SHA-256 (hex) over the function's name and the files that it is imported from. Raises ValueError."""
    place, _, name = path.rpartition(":")
    try:
        return digest_of(name, sources_of(import_place(place), place))
    except LoadError as error:
        raise ValueError(f"{path}: {error}") from error


def digest_of(name: str, sources: Mapping[str, str]) -> str:
    """SHA-256 (hex) over a function's name and the digests of its files."""
    return canonical_digest([name, dict(sources)])


def trace_of(error: BaseException) -> str:
    """The traceback below our own frames, at most MAX_TRACEBACK_CHARACTERS from its end."""
    frames = traceback.extract_tb(error.__traceback__)
    kept = [f for f in frames if not f.filename.startswith((_PACKAGE, "<frozen importlib"))]
    lines = [*traceback.format_list(kept), *traceback.format_exception_only(error)]
    return "".join(lines)[-MAX_TRACEBACK_CHARACTERS:]


def _where(error: BaseException, place: str) -> str:
    if isinstance(error, SyntaxError):
        return f" (line {error.lineno})"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename.endswith(place)]
    return f" (line {lines[-1]})" if lines else ""


def _said(error: BaseException) -> str:
    text = str(error.msg if isinstance(error, SyntaxError) else error)
    return f"{type(error).__name__}: {text}"[:500] if text else type(error).__name__
