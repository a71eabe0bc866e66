"""A query of tenants' data names its tenant: held to by reading billing's sources.

A function that selects from, updates or deletes from a table with a `tenant` column must compare
that column with the tenant it was given (`TABLE.c.tenant == tenant`). One that is meant to see
every tenant says so, with the reason, in a comment that begins `# every tenant: `.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tidegate_billing import tables

BILLING = Path(tables.__file__).parent
SOURCES = sorted(path for path in BILLING.rglob("*.py") if "migrations" not in path.parts)
STATEMENTS = {"select", "update", "delete", "exists", "join_from", "select_from"}
OWNED = {name.upper() for name, table in tables.METADATA.tables.items() if "tenant" in table.c}
SAID = re.compile(r"# every tenant: \S+")
RAW = re.compile(
    r"\b(?:from|join|update|into)\s+(" + "|".join(name.lower() for name in sorted(OWNED)) + r")\b",
    re.IGNORECASE,
)


def unscoped(text: str, name: str) -> Iterator[str]:
    """Every function whose query of tenants' data names no tenant, in words."""
    lines = text.splitlines()
    for node in _functions(ast.parse(text, name)):
        found = sorted(_touched(node))
        end = node.end_lineno or node.lineno
        source = lines[node.lineno - 1 : end]
        if found and not _names_tenant(node) and not any(SAID.search(line) for line in source):
            yield f"{name}:{node.lineno}: {node.name} queries {', '.join(found)} of no tenant"


def _functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _touched(function: ast.AST) -> Iterator[str]:
    """Tables of tenants in the function's statements, and in SQL that is written out."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            called = node.func.id if isinstance(node.func, ast.Name) else called
            if called in STATEMENTS:
                for part in ast.walk(node):
                    if isinstance(part, ast.Name) and part.id in OWNED:
                        yield part.id
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value != _docstring(function)
        ):
            yield from (table.upper() for table in RAW.findall(node.value))


def _docstring(function: ast.AST) -> str | None:
    body = getattr(function, "body", [])
    first = body[0] if body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        return str(first.value.value)
    return None


def _names_tenant(function: ast.AST) -> bool:
    """Whether somewhere `TABLE.c.tenant` is compared for equality."""
    for node in ast.walk(function):
        if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Eq):
            left = node.left
            if (
                isinstance(left, ast.Attribute)
                and left.attr == "tenant"
                and isinstance(left.value, ast.Attribute)
                and left.value.attr == "c"
            ):
                return True
    return False


def test_tables_with_tenants_are_found() -> None:
    assert {"EVENT", "SERIES", "ADJUSTMENT", "PARKED", "PROJECT", "API_KEY"} <= OWNED
    assert len(SOURCES) > 20


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(BILLING)))
def test_every_query_names_its_tenant_or_says_why_not(path: Path) -> None:
    assert list(unscoped(path.read_text(), str(path.relative_to(BILLING)))) == []


@pytest.mark.parametrize(
    "body",
    [
        "connection.execute(select(EVENT.c.id).where(EVENT.c.event_id == given))",
        "connection.execute(update(API_KEY).values(name='x'))",
        "connection.execute(delete(PARKED))",
        "connection.execute(text('SELECT id FROM event'))",
        "connection.execute(select(SERIES.c.tenant, tenant == 'x'))",
        "connection.execute(select(EVENT).where(EVENT.c.tenant != tenant))",
    ],
)
def test_a_query_without_a_tenant_is_seen(body: str) -> None:
    assert list(unscoped(f"def f(connection, tenant):\n    {body}\n", "m"))


@pytest.mark.parametrize(
    "body",
    [
        "connection.execute(select(EVENT.c.id).where(EVENT.c.tenant == tenant))",
        "# every tenant: the platform's own count\n    connection.execute(select(EVENT.c.id))",
        "connection.execute(select(PRICE.c.version))",
        '"""Reads FROM event, says the prose."""',
    ],
)
def test_a_query_with_a_tenant_is_fine(body: str) -> None:
    assert not list(unscoped(f"def f(connection, tenant):\n    {body}\n", "m"))


def test_a_reason_is_asked_for() -> None:
    said = "def f(connection):\n    # every tenant: \n    connection.execute(select(EVENT))\n"
    assert list(unscoped(said, "m"))
