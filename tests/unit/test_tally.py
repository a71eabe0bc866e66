"""What a journal says it has written: the same after every restart, and never a loss that was none."""

import datetime as dt
import json
from pathlib import Path

import pytest

from tidegate_billing.links import Written
from tidegate_billing.usage import Usage, day_of, uuid7
from tidegate_runtime.journal import Journal
from tidegate_runtime.tally import FILE, Tally

SIZE = 16 * 1024
DAY = "2026-11-28"
NOON = int(dt.datetime(2026, 11, 28, 12, tzinfo=dt.UTC).timestamp() * 10**9)
NANOS = 86_400 * 10**9


def usage(kind: str = "settlement", model: str = "m", days: int = 0, attempt: str = "") -> Usage:
    return Usage(
        attempt_id=attempt or uuid7(NOON + days * NANOS), kind=kind, request_id="r", tenant="t",
        project="p", key_id="k", model=model, deployment="d/m", endpoint="/v1", started_at=1,
        prompt_tokens=3, completion_tokens=5,
    )  # fmt: skip


def sums(journal: Journal) -> dict[tuple[str, str], tuple[int, int, int, int]]:
    return {
        (one.day, one.model): (
            one.settlements, one.prompt_tokens, one.completion_tokens, one.upto,
        )
        for one in journal.tally.changed()
    }  # fmt: skip


def fill(journal: Journal, count: int, **values: int) -> None:
    for _ in range(count):
        opened = usage("attempt", **values)
        journal.append(opened)
        journal.append(usage(attempt=opened.attempt_id))


def told(journal: Journal) -> None:
    """Billing has confirmed everything."""
    while journal.read_next(100):
        pass
    journal.tally.told(journal.tally.changed())
    journal.acknowledge(journal.number)


def test_settlements_are_counted_by_day_and_model(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    journal.append(usage("attempt"))
    journal.append(usage())
    journal.append(usage(model="n", days=1))
    journal.append(usage(days=1))
    journal.append(usage())
    assert sums(journal) == {
        (DAY, "m"): (2, 6, 10, 5),
        ("2026-11-29", "n"): (1, 3, 5, 3),
        ("2026-11-29", "m"): (1, 3, 5, 4),
    }
    before = journal.tally.changed()
    journal.append(usage())
    journal.tally.told(before)
    assert sums(journal) == {(DAY, "m"): (3, 9, 15, 6)}, "what has changed since is told again"
    assert journal.tally.since == ""
    journal.close()


def test_sums_outlive_their_segments_and_every_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    for life in range(1, 6):
        fill(journal, 60)
        if life % 2:
            told(journal)
        journal.close()
        journal = Journal(tmp_path, SIZE)
        journal.append(usage(model=f"life-{life}"))
        fill(journal, 1)
        assert sums(journal)[DAY, "m"][:3] == (61 * life, 183 * life, 305 * life)
        assert journal.tally.since == ""
    assert oct((tmp_path / FILE).stat().st_mode & 0o777) == "0o600"
    assert len(json.loads((tmp_path / FILE).read_bytes())["counts"]) >= 1
    journal.close()


def test_a_crash_between_the_base_and_its_segment_counts_nothing_twice(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    while len(journal.segments) < 3:
        fill(journal, 1)
    written = sums(journal)[DAY, "m"]
    first = journal.segments[0]
    journal.tally.leave(first.counts, first.last)
    journal.close()
    again = Journal(tmp_path, SIZE)
    assert sums(again)[DAY, "m"] == written
    assert again.tally.since == ""
    again.close()


def tomorrow() -> str:
    return (dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)).isoformat()


def test_records_that_went_uncounted_begin_the_count_anew(tmp_path: Path) -> None:
    """As in a journal of a release that did not count: what it lacks must not look like a loss."""
    journal = Journal(tmp_path, SIZE)
    fill(journal, 100)
    told(journal)
    assert len(journal.segments) == 1
    journal.close()
    (tmp_path / FILE).unlink()
    assert day_of(NOON // 10**6) < tomorrow()
    again = Journal(tmp_path, SIZE)
    assert again.tally.since == tomorrow()
    fill(again, 1)
    assert sums(again) == {}
    again.append(usage(days=400))
    assert list(sums(again).values()) == [(1, 3, 5, again.number)]
    told(again)
    again.close()


def test_a_disk_that_is_full_keeps_no_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, SIZE)
    fill(journal, 100)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    told(journal)
    assert len(journal.segments) == 1
    monkeypatch.undo()
    while len(journal.segments) < 3:
        fill(journal, 1)
    count = sums(journal)[DAY, "m"][0]
    told(journal)  # the next one has all of it
    journal.append(usage())
    journal.close()
    again = Journal(tmp_path, SIZE)
    again.append(usage())
    assert sums(again)[DAY, "m"][0] == count + 2
    again.close()


def test_a_count_of_records_that_a_power_loss_took_is_not_believed(tmp_path: Path) -> None:
    tally = Tally(tmp_path, 1, 0, DAY)
    counts: dict[tuple[str, str], list[int]] = {}
    for number in range(1, 9):
        tally.add(counts, number, usage())
    tally.leave(counts, 8)
    assert Tally(tmp_path, 9, 8, DAY).since == ""
    assert Tally(tmp_path, 5, 9, DAY).since == ""
    assert Tally(tmp_path, 5, 6, DAY).since == "2026-11-29"
    assert Tally(tmp_path, 10, 12, DAY).since == "2026-11-29"


def test_old_days_are_let_go_and_what_has_no_day_is_not_counted(tmp_path: Path) -> None:
    tally = Tally(tmp_path, 1, 0, DAY)
    counts: dict[tuple[str, str], list[int]] = {}
    tally.add(counts, 1, usage(days=-9))
    tally.add(counts, 2, usage(days=-8))
    tally.add(counts, 3, usage())
    tally.add(counts, 4, usage(attempt="not an id"))
    old, older, new = sorted(tally.changed(), key=lambda one: one.day)
    assert [one.settlements for one in (old, older, new)] == [1, 1, 1]
    tally.told([old, new])
    tally.leave(counts, 4)
    kept = json.loads((tmp_path / FILE).read_bytes())["counts"]
    assert [row[0] for row in kept] == ["2026-11-20", DAY], "one waits to be told"
    assert tally.changed() == [Written(day="2026-11-20", model="m", settlements=1, prompt_tokens=3, completion_tokens=5, upto=2)]  # fmt: skip
