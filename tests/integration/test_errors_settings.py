"""docs/errors.md, table Settings: every row happens, in words and exit code; nothing is left out."""

from pathlib import Path

import pytest

from errors_doc import ROOT, plain, sentences, tables
from provoked_settings import SETTINGS, Told, seen, tidegate

ROWS = {row.id: row for row in tables()["Settings"]}
SOURCES = [
    path for part in ("operator", "runtime", "billing") for path in sorted((ROOT / part).rglob("*.py"))
]  # fmt: skip
ERRORS = (
    "SettingError", "StaticError", "PortInUseError", "DataInUseError", "JournalBusy",
    "InvalidPlatform", "DatabaseError",
)  # fmt: skip
UNSEEN = {
    "flag .* is not a setting": "argparse and typer know every flag that gets so far",
    "PostgreSQL is backed up by its own means": "takes a PostgreSQL that was migrated",
    "no free port for an engine": "five hundred ports would have to be taken",
}
PLATFORM = ROOT / "operator/tidegate_operator/cli"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Told]]:
    folder = tmp_path_factory.mktemp("settings")
    return {row: seen(folder, row) for row in SETTINGS}


def test_rows_and_provocations_are_the_same() -> None:
    assert list(ROWS) == [row.id for row in tables()["Settings"]], "an id is given twice"
    assert ROWS.keys() == SETTINGS.keys()


@pytest.mark.parametrize("row", ROWS)
def test_what_cannot_start_says_why_as_promised(row: str, told: dict[str, list[Told]]) -> None:
    cells = ROWS[row].cells
    assert {str(one.exit) for one in told[row]} == {"-1" if cells["exit"] == "-" else cells["exit"]}
    text = plain(" ".join(one.text for one in told[row]))
    assert ROWS[row].words()
    for word in ROWS[row].words():
        assert word in text
    for one in told[row]:
        if one.exit == 1 and row not in {"platform-field", "database-newer"}:
            assert one.text.count("\n") == 1, "one line"


def test_whatever_a_start_can_be_refused_for_was_said(told: dict[str, list[Told]]) -> None:
    known = sentences(SOURCES, ERRORS)
    known |= sentences([PLATFORM / "platform.py", PLATFORM / "chat.py"], ["CommandError"])
    assert len(known) > 40, "the messages are found"
    texts = [one.text for ones in told.values() for one in ones]
    silent = {
        where: pattern.pattern
        for where, pattern in known.items()
        if not any(pattern.search(text) for text in texts)
    }
    unseen = [
        line for line in silent.values() if line.replace("\\ ", " ").startswith(tuple(UNSEEN))
    ]
    assert sorted(silent.values()) == sorted(unseen), silent


def test_exit_codes_are_the_table_s() -> None:
    assert [row.id for row in tables()["Exit codes"]] == ["0", "1", "2"]
    assert tidegate("models", DATA=str(Path("/no"))).exit == 1
