"""The meter: nothing is confirmed that was not synced, and nothing stops it for good."""

import asyncio
import os
from pathlib import Path

import pytest

from tidegate_billing.usage import Usage, uuid7
from tidegate_runtime.journal import Journal
from tidegate_runtime.meter import Meter
from tidegate_runtime.slots import Slots

SIZE = 64 * 1024


def usage(attempt: str, kind: str = "attempt") -> Usage:
    return Usage(
        attempt_id=attempt, kind=kind, request_id="r", tenant="t", project="p", key_id="k",
        model="m", deployment="d/m", endpoint="/v1", started_at=1,
    )  # fmt: skip


def made(folder: Path) -> Meter:
    return Meter(Journal(folder, SIZE), Slots(folder / "slots", 64), strict=True)


async def settled(meter: Meter) -> None:
    """Make an attempt and wait for its settlement to be durable."""
    attempt, done = uuid7(), asyncio.Event()
    meter.attempt(usage(attempt))
    meter.settle(usage(attempt, "settlement"), -1, done.set)
    await asyncio.wait_for(done.wait(), 10)


async def test_done_comes_after_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meter = made(tmp_path)
    await settled(meter)
    synced: list[int] = []
    real = os.fdatasync

    def seen(fd: int) -> None:
        real(fd)
        synced.append(meter.journal.number)

    monkeypatch.setattr(os, "fdatasync", seen)
    for _ in range(50):
        before = len(synced)
        await settled(meter)
        assert len(synced) > before
        assert synced[-1] >= meter.journal.number
    monkeypatch.undo()
    meter.close()


async def test_a_turn_without_waiters_confirms_nothing(tmp_path: Path) -> None:
    """The thread may run between a record's write and its waiter's place in the line."""
    meter = made(tmp_path)
    while meter._syncing or meter.journal.spare is None:  # else both would make the spare
        await asyncio.sleep(0.01)
    assert meter._work().number == 0
    meter.close()


async def test_a_spare_that_cannot_be_made_holds_up_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = made(tmp_path)
    await settled(meter)

    def full() -> None:
        raise OSError(28, "No space left on device")

    meter.journal.spare = None
    meter._want_spare = True
    monkeypatch.setattr(meter.journal, "make_spare", full)
    await settled(meter)
    assert "cannot grow" in meter.scarce
    assert not meter.refusal, "there is room left"
    while meter.journal.room > 0:
        meter.attempt(usage(uuid7()))
    assert "cannot grow" in meter.refusal
    monkeypatch.undo()
    meter.sweep(0.0)
    while meter.scarce:
        await asyncio.sleep(0.01)
    assert not meter.refusal
    meter.close()


async def test_after_a_failed_sync_nothing_is_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = made(tmp_path)
    await settled(meter)

    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    attempt, done = uuid7(), asyncio.Event()
    meter.attempt(usage(attempt))
    meter.settle(usage(attempt, "settlement"), -1, done.set)
    while not meter.refusal:
        await asyncio.sleep(0.01)
    monkeypatch.undo()
    meter.sweep(0.0)
    await asyncio.sleep(0)
    assert "cannot be synced" in meter.refusal
    assert not done.is_set()
    meter.close()


async def test_one_failing_callback_stops_no_other(tmp_path: Path) -> None:
    meter = made(tmp_path)
    noticed: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: noticed.append(context))

    def bad() -> None:
        raise RuntimeError("a fault of ours")

    attempt = uuid7()
    meter.attempt(usage(attempt))
    meter.settle(usage(attempt, "settlement"), -1, bad)
    await settled(meter)
    assert len(noticed) == 1
    meter.close()


async def test_a_settlement_that_cannot_be_written_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = made(tmp_path)
    attempt, done = uuid7(), asyncio.Event()
    meter.attempt(usage(attempt))

    def full(event: Usage) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meter.journal, "append", full)
    meter.settle(usage(attempt, "settlement"), -1, done.set)
    assert meter.refusal
    monkeypatch.undo()
    meter.sweep(0.0)
    await asyncio.wait_for(done.wait(), 10)
    assert not meter.journal.open_attempts
    meter.close()
