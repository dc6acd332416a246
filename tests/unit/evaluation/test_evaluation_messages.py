"""Messages name what a person can set, not arguments of our functions."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import deepscaler

KEYWORD = re.compile(r"\b[a-z_]+=(True|False|None)\b")


def test_no_message_names_a_keyword_of_python() -> None:
    found = []
    for file in Path(deepscaler.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and node.exc is not None and KEYWORD.search(_texts(node.exc)):
                found.append(f"{file.name}:{node.lineno}")
            if (
                isinstance(node, ast.Call)
                and ast.unparse(node.func).endswith("warnings.append")
                and KEYWORD.search(_texts(node))
            ):
                found.append(f"{file.name}:{node.lineno}")
    assert found == []


def _texts(node: ast.AST) -> str:
    return " ".join(n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and isinstance(n.value, str))
