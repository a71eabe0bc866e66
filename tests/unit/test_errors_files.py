"""docs/errors.md, table Files: every row happens, and says what it promises; nothing is left out."""

import re

import pytest

from errors_doc import ROOT, plain, sentences, tables
from provoked_files import FILES, seen
from provoked_up import FILES as RUNNING
from tidegate_runtime.contract.schema import schema
from tidegate_runtime.contract.validate import _CHECKS, Schema, _no_check

ROWS = {row.id: row for row in tables()["Files"]}
KEYWORDS = {
    "minimum": "too-low",
    "maximum": "too-high",
    "enum": "not-one-of",
    "pattern": "wrong-form",
    "minLength": "too-short",
    "maxLength": "too-long",
    "maxItems": "too-many",
    "items": "too-many",  # a fault of an item is one of the others
    "x-kubernetes-list-map-keys": "listed-twice",
    "required": "field-missing",
    "properties": "field-unknown",
}
READERS = [
    *(ROOT / "runtime/tidegate_runtime/contract" / f"{name}.py"
      for name in ("resource", "document", "validate")),
    ROOT / "operator/tidegate_operator/local/files.py",
]  # fmt: skip
ELSEWHERE = {
    re.escape("has no *.yaml or *.yml file"),  # of `resource.read`, which `up` does not use
}


def rules(node: Schema) -> set[str]:
    """Every message of the schema's CEL rules."""
    found = {rule["message"] for rule in node.get("x-kubernetes-validations", ())}
    for inner in (*node.get("properties", {}).values(), *filter(None, [node.get("items")])):
        found |= rules(inner)
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("files")
    return {row: plain(seen(folder, row)) for row in FILES}


def test_rows_and_provocations_are_the_same() -> None:
    assert list(ROWS) == [row.id for row in tables()["Files"]], "an id is given twice"
    assert ROWS.keys() == FILES.keys() | RUNNING.keys()


@pytest.mark.parametrize("row", FILES)
def test_a_bad_file_is_told_as_promised(row: str, told: dict[str, str]) -> None:
    words = ROWS[row].words()
    assert words
    for word in words:
        assert word in told[row]


def test_every_kind_of_check_has_its_row() -> None:
    assert KEYWORDS.keys() == {name for name, check in _CHECKS.items() if check is not _no_check}
    assert set(KEYWORDS.values()) <= ROWS.keys()


def test_every_rule_is_in_the_table() -> None:
    promised = [word for row in ROWS.values() for word in row.words()]
    for message in rules(schema()):
        assert any(message.partition(",")[0] in word for word in promised), message


def test_whatever_the_reader_can_say_was_said(told: dict[str, str]) -> None:
    known = sentences(READERS, ["Fault", "Problem", "_fault"])
    assert len(known) > 25, "the reader's messages are found"
    silent = {
        where: pattern.pattern
        for where, pattern in known.items()
        if pattern.pattern not in ELSEWHERE
        and not any(pattern.search(text) for text in told.values())
    }
    assert not silent


def test_the_page_is_found() -> None:
    for page in ("failures.md", "commands.md"):
        assert "(errors.md" in (ROOT / "docs" / page).read_text()
