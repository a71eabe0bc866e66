"""docs/failures.md names every reason there is, and no other."""

import re
from pathlib import Path

from tidegate_operator.outcome import FETCH_ENDS, REASONS

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "failures.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \|(.*)\|$", TEXT, re.MULTILINE)
LITERAL = re.compile(
    r"(?:Trouble|_start_failed|_give_up|PrepareError|_refusal)\([^\"()]*\"([A-Z]\w+)\""
)


def test_the_table_and_the_code_name_the_same_reasons() -> None:
    assert [name for name, _ in ROWS] == list(dict.fromkeys(name for name, _ in ROWS))
    assert {name for name, _ in ROWS} == REASONS
    assert {reason for reason, _ in FETCH_ENDS.values()} <= REASONS


def test_every_row_says_everything() -> None:
    for name, row in ROWS:
        cells = [cell.strip() for cell in row.split("|")]
        assert len(cells) == 5, name
        assert all(cells), name


def test_no_reason_is_made_that_is_not_listed() -> None:
    found = set()
    for path in (ROOT / "operator").rglob("*.py"):
        found |= set(LITERAL.findall(path.read_text()))
    assert {"ImagePullBackOff", "StartTimeout", "NodeLost", "ModelNotFound"} <= found
    assert found <= REASONS


def test_it_is_found_from_the_page_on_clusters() -> None:
    assert "(failures.md)" in (ROOT / "docs" / "cluster.md").read_text()
