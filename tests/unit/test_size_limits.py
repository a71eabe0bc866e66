"""Sizes are bounded at the tail: no module, function or hidden state grows out of sight.

A function is counted from its `def` line to its last line, nested ones included, its decorators
and comments too: what a reader has to hold in mind at once.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE_LINES = 400
FUNCTION_LINES = 50
SOURCES = sorted(
    path for part in ("operator", "runtime", "billing") for path in (ROOT / part).rglob("*.py")
)


def too_long(text: str, name: str) -> Iterator[str]:
    """Every limit that a module's source breaks, in words."""
    lines = text.count("\n")
    if lines > MODULE_LINES:
        yield f"{name}: {lines} lines, at most {MODULE_LINES}"
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, ast.Global):
            yield f"{name}:{node.lineno}: global {', '.join(node.names)}"
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            if size > FUNCTION_LINES:
                yield f"{name}:{node.lineno}: {node.name} has {size} lines, at most {FUNCTION_LINES}"


def test_sources_are_found() -> None:
    assert len(SOURCES) > 5


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_is_within_the_limits(path: Path) -> None:
    assert list(too_long(path.read_text(), str(path.relative_to(ROOT)))) == []


def test_each_limit_is_seen() -> None:
    body = "    x = 1\n" * FUNCTION_LINES
    nested = f"def outer():\n    async def inner():\n{body.replace('    x', '        x')}\n"
    assert list(too_long("x = 1\n" * 401, "m")) == ["m: 401 lines, at most 400"]
    assert "m:1: f has 51 lines, at most 50" in list(too_long(f"def f():\n{body}", "m"))
    assert any("inner" in line for line in too_long(nested, "m"))
    assert list(too_long("def f():\n    global x\n    x = 1\n", "m")) == ["m:2: global x"]
