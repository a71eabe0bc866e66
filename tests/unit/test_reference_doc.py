"""docs/reference.md is what the schemas say, whole; and the schemas describe every field."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tidegate_runtime.contract import definitions, reference

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "reference.md").read_text()
KINDS = definitions.crds()


def schema(made: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return found


def kind(made: dict[str, Any]) -> str:
    return str(made["spec"]["names"]["kind"])


def properties(node: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property at any depth, found without the generator's own walk."""
    if isinstance(node, dict):
        for name, inner in node.get("properties", {}).items():
            yield name, inner
        for inner in node.values():
            yield from properties(inner)
    elif isinstance(node, list):
        for inner in node:
            yield from properties(inner)


def test_the_page_is_what_the_command_prints() -> None:
    command = [sys.executable, "-Im", "tidegate_operator.cli", "crd", "--reference"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed == reference.page()
    assert printed == TEXT, "write it anew: .venv/bin/tidegate crd --reference > docs/reference.md"


@pytest.mark.parametrize("made", KINDS, ids=kind)
def test_every_field_is_described(made: dict[str, Any]) -> None:
    named = {"apiVersion", "kind", "metadata"}  # Kubernetes' own
    found = [(at, inner) for at, inner, _ in reference.fields(schema(made))]
    assert len(found) + len(named) == len(list(properties(schema(made))))
    assert [at for at, inner in found if not inner.get("description", "").endswith(".")] == []


@pytest.mark.parametrize("made", KINDS, ids=kind)
def test_every_field_default_bound_and_rule_is_on_the_page(made: dict[str, Any]) -> None:
    section = TEXT.split(f"\n## {kind(made)}\n")[1].split("\n## ")[0]
    for at, inner, _ in reference.fields(schema(made)):
        name = at.removeprefix("spec.").removeprefix("status.")
        ends = {name, name.partition(".")[2], name.partition("[].")[2]}
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        found = [row for row in rows if row.split("`")[1] in ends]
        assert found or f"#### {at}" in section or at in {"spec", "status"}, at
        for row in found[:1] if inner.get("type") != "object" else []:
            for word in ("minimum", "maximum", "maxLength", "maxItems"):
                if word in inner:
                    assert any(str(inner[word]) in one for one in found), (at, word, row)
            for value in inner.get("enum", ()):
                assert any(f"`{value}`" in one for one in found), (at, value)
        for rule in inner.get("x-kubernetes-validations", ()):
            assert f"- {rule['message']}\n" in section, at


def test_a_row_says_all_there_is() -> None:
    node = {
        "type": "object",
        "required": ["a"],
        "properties": {
            "a": {"type": "string", "pattern": "^(x|y)$", "maxLength": 3, "description": "One."},
            "b": {
                "type": "array",
                "maxItems": 2,
                "default": [],
                "description": "Two.",
                "x-kubernetes-list-map-keys": ["n"],
                "items": {
                    "type": "object",
                    "properties": {"n": {"type": "integer", "minimum": 0, "description": "Three."}},
                },
            },
            "c": {
                "type": "object",
                "description": "Four.",
                "additionalProperties": {"type": "number"},
            },
        },
    }
    assert reference._table(reference.fields(node, "x")).splitlines()[2:] == [
        r"| `x.a` | string | *required* | up to 3 characters; `^(x\|y)$` | One. |",
        "| `x.b` | list of object | `[]` | up to 2 entries; each with a `n` of its own | Two. |",
        "| `x.b[].n` | integer |  | 0 or more | Three. |",
        "| `x.c` | map to number |  |  | Four. |",
    ]
