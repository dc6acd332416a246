"""No path from text to code anywhere in the package, read off its syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import deepscaler

PACKAGE = Path(deepscaler.__file__).parent
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint", "globals", "execfile"}
# Of whatever module: `sympy.sympify`, `ast.literal_eval`, `np.load(allow_pickle=True)` ...
ATTRIBUTES = {"sympify", "parse_expr", "parse_latex", "latex2sympy", "lambdify", "literal_eval", "import_module"}
ATTRIBUTES |= {"system", "popen", "spawn_module", "run_path", "run_module", "exec_module", "unsafe_load"}
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "code", "runpy", "sympy", "antlr4"}
MODULES |= {"latex2sympy2", "latex2sympy2_extended", "math_verify"}
SWITCHES = {"shell": True, "allow_pickle": True, "trust_remote_code": True, "weights_only": False}
# Imports by name: of parts in this package's own tables (`load` refuses other packages), and of the grader, which its
# owner names by such a table before any text is read; and of a user's own file or module, which the recipe names.
# CUDA IPC handles of our own go pickled to vLLM; `dumps` alone is imported.
# vLLM's server, one fixed module, is run in an environment of its own.
SERVER = "engines/vllm_shared/in_server/deepscaler_vllm/launch.py"
ALLOWED = {
    ("config/parts.py", "import_module"),
    ("own_code.py", "import_module"),
    ("own_code.py", "exec_module"),
    ("rewards/isolation/worker.py", "import_module"),
    ("engines/vllm_server/ipc_wire.py", "pickle"),
    (SERVER, "runpy"),
    (SERVER, "run_module"),
}


def findings(source: str, name: str = "x.py") -> list[str]:
    """`line: what` for everything that can turn text into code."""
    found = [(line, what) for node in ast.walk(ast.parse(source)) for line, what in _of(node)]
    return [f"{name}:{line}: {what}" for line, what in found if (name, what) not in ALLOWED]


def _of(node: ast.AST) -> Iterator[tuple[int, str]]:
    if isinstance(node, ast.Name) and node.id in BUILTINS | ATTRIBUTES:
        yield node.lineno, node.id
    elif isinstance(node, ast.Attribute):
        of_builtins = isinstance(node.value, ast.Name) and node.value.id in ("builtins", "__builtins__")
        if node.attr in ATTRIBUTES or (of_builtins and node.attr in BUILTINS):
            yield node.lineno, node.attr
    elif isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names]
        modules = names if isinstance(node, ast.Import) else [node.module or ""]
        for word in [m.split(".")[0] for m in modules if m.split(".")[0] in MODULES]:
            yield node.lineno, word
        if isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, n) for n in names if n in ATTRIBUTES | BUILTINS)
    elif isinstance(node, ast.Call):
        for keyword in node.keywords:
            constant = isinstance(keyword.value, ast.Constant) and keyword.value.value
            if (
                keyword.arg in SWITCHES
                and isinstance(keyword.value, ast.Constant)
                and constant is SWITCHES[keyword.arg]
            ):
                yield node.lineno, f"{keyword.arg}={constant}"
        if isinstance(node.func, ast.Name) and node.func.id == "getattr" and _names_one(node):
            yield node.lineno, "getattr of a forbidden name"


def _names_one(call: ast.Call) -> bool:
    return any(isinstance(a, ast.Constant) and a.value in BUILTINS | ATTRIBUTES for a in call.args)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_the_package_never_turns_text_into_code(path: Path) -> None:
    assert findings(path.read_text(), str(path.relative_to(PACKAGE))) == []


@pytest.mark.parametrize(
    "source",
    [
        "eval(text)",
        "run = eval",
        "exec('x')",
        "compile(text, '', 'eval')",
        "import builtins\nbuiltins.eval(text)",
        "__import__(name)",
        "import importlib\nimportlib.import_module(name)",
        "from importlib import import_module",
        "sympy.sympify(text)",
        "from sympy.parsing.sympy_parser import parse_expr",
        "import sympy",
        "from latex2sympy2_extended import latex2sympy",
        "import pickle\npickle.load(file)",
        "import subprocess\nsubprocess.run(text, shell=True)",
        "import os\nos.system(text)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path, weights_only=False)",
        "getattr(builtins, 'eval')(text)",
        "from ast import literal_eval",
    ],
)
def test_a_planted_path_is_found(source: str) -> None:
    assert findings(source)


@pytest.mark.parametrize("source", ["model.eval()", "re.compile('x')", "subprocess.run(command)", "torch.compile(f)"])
def test_what_only_sounds_alike_is_not(source: str) -> None:
    assert not findings(source)
