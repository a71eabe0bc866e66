"""The journal's files: what was written is read, what a crash tore is not, what is told goes."""

import os
from pathlib import Path

import pytest

from tidegate_billing.usage import Usage, uuid7
from tidegate_runtime.journal import Journal, JournalBusy, JournalFull
from tidegate_runtime.slots import Slots

SIZE = 64 * 1024


def usage(attempt: str, kind: str = "attempt") -> Usage:
    return Usage(
        attempt_id=attempt, kind=kind, request_id="r", tenant="t", project="p", key_id="k",
        model="m", deployment="d/m", endpoint="/v1", started_at=1,
    )  # fmt: skip


def test_what_a_crash_leaves_is_found(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    ids = [uuid7() for _ in range(3)]
    for attempt in ids:
        journal.append(usage(attempt))
    journal.append(usage(ids[1], "settlement"))
    name, end, path = journal.id, journal.current.end, journal.current.path
    journal.close()
    with path.open("r+b") as file:  # a torn record at the end
        file.seek(end)
        file.write(b"\x40\x00\x00\x00garbage")
    again = Journal(tmp_path, SIZE)
    assert again.id == name
    assert [u.attempt_id for u in again.unsettled()] == [ids[0], ids[2]]
    assert again.number == 4
    assert [r.number for r in again.read_next(100)] == [1, 2, 3, 4]
    assert again.append(usage(uuid7())) == 5
    assert [r.number for r in again.read_next(100)] == [5]
    again.close()


def test_segments_go_when_told_and_settled(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    first = uuid7()
    journal.append(usage(first))
    while len(journal.segments) < 4:
        attempt = uuid7()
        journal.append(usage(attempt))
        journal.append(usage(attempt, "settlement"))
    seen = []
    while records := journal.read_next(7):
        seen += [r.number for r in records]
    assert seen == list(range(1, journal.number + 1))
    journal.acknowledge(journal.number)
    assert len(journal.segments) == 4, "an attempt begun in the first one is open"
    assert journal.unacked == 1
    journal.append(usage(first, "settlement"))
    journal.read_next(10)
    journal.acknowledge(journal.number)
    assert len(journal.segments) == 1
    assert journal.unacked == 0
    assert len(list(tmp_path.glob("*.log"))) == 1
    number = journal.number
    journal.close()
    again = Journal(tmp_path, SIZE)
    assert (again.number, again.acked, again.read_next(9)) == (number, number, [])
    again.close()


def test_a_crash_while_a_segment_is_made(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    journal.append(usage(uuid7()))
    journal.close()
    (tmp_path / "0000000000.tmp").touch()
    (tmp_path / "0000000002.tmp").write_bytes(bytes(100))
    again = Journal(tmp_path, SIZE)
    assert len(again.unsettled()) == 1
    assert not list(tmp_path.glob("*.tmp"))
    again.close()


def test_a_spare_is_used_and_found_again(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 4096)
    journal.spare = journal.make_spare()
    attempts = [uuid7() for _ in range(24)]
    for attempt in attempts:
        journal.append(usage(attempt))
    assert journal.spare is None
    journal.close()
    again = Journal(tmp_path, 4096)
    assert [u.attempt_id for u in again.unsettled()] == attempts
    again.close()


def test_one_writer(tmp_path: Path) -> None:
    journal = Journal(tmp_path, SIZE)
    with pytest.raises(JournalBusy):
        Journal(tmp_path, SIZE)
    journal.close()


def test_a_full_disk_leaves_room_for_what_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path, SIZE)
    open_ones = []
    while journal.room > 0:
        open_ones.append(uuid7())
        journal.append(usage(open_ones[-1]))

    def full(fd: int, data: bytes, at: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(
        os,
        "pwrite",
        lambda fd, data, at: full(fd, data, at) if len(data) == SIZE else _real(fd, data, at),
    )
    for attempt in open_ones:
        journal.append(usage(attempt, "settlement"))
    with pytest.raises(OSError, match="No space"):
        for _ in range(1000):
            journal.append(usage(uuid7()))
    assert len(list(tmp_path.glob("*.log"))) == 1, "a segment that cannot be made leaves no file"
    monkeypatch.undo()
    journal.append(usage(uuid7()))
    journal.close()


_real = os.pwrite


def _no_space(fd: int, data: bytes, at: int) -> int:
    if len(data) == SIZE:
        raise OSError(28, "No space left on device")
    return _real(fd, data, at)


def test_a_full_disk_stops_no_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path, SIZE)
    attempts = [uuid7() for _ in range(3)]
    for attempt in attempts:
        journal.append(usage(attempt))
    torn, number = journal.current.end, journal.number
    journal.append(usage(attempts[0], "settlement"))
    journal.append(usage(attempts[1], "settlement"))
    journal.current.map[torn] ^= 0xFF  # a crash: the first of the two is torn, the other whole
    journal.close()
    monkeypatch.setattr(os, "pwrite", _no_space)
    again = Journal(tmp_path, SIZE)
    assert again.number == number
    assert [one.attempt_id for one in again.unsettled()] == attempts
    again.append(usage(attempts[0], "settlement"))
    again.close()
    last = Journal(tmp_path, SIZE)
    records = last.read_next(100)
    assert [one.number for one in records] == list(range(1, number + 2))
    assert [one.attempt_id for one in last.unsettled()] == attempts[1:]
    last.acknowledge(number + 1)
    monkeypatch.undo()
    last.spare = last.make_spare()
    last.close()


def test_a_disk_that_never_had_room_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwrite", _no_space)
    with pytest.raises(OSError, match="No space"):
        Journal(tmp_path, SIZE)


def test_a_record_larger_than_a_segment_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 4096)
    with pytest.raises(JournalFull):
        journal.append(
            Usage(
                **{
                    **{f: getattr(usage("x"), f) for f in usage("x").__struct_fields__},
                    "model": "m" * 5000,
                }
            )
        )
    journal.close()


def test_slots_survive_without_being_closed(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "slots", capacity=4)
    attempts = [uuid7() for _ in range(4)]
    taken = [slots.take(a) for a in attempts]
    assert slots.take(uuid7()) == -1
    for n, slot in enumerate(taken):
        slots.put(slot, 100 + n, n)
    slots.give(taken[2])
    again = Slots(tmp_path / "slots", capacity=4)  # as after kill -9
    assert again.left() == {attempts[n]: (100 + n, n) for n in (0, 1, 3)}
    again.clear()
    assert again.left() == {}
    again.close()
    slots.close()
