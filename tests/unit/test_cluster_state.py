"""The record of a test cluster: what is in it is ended, and nothing that merely looks like it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import record, takedown
from harness.record import Book, Process, Record

Sleeper = subprocess.Popen[bytes]


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """A process that is not the cluster's."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"]) as process:
        yield process
        process.kill()


def started(process: Sleeper) -> int:
    start = record.start_time(process.pid)
    assert start is not None
    return start


def test_start_time_of_a_live_a_dead_and_a_strangely_named_process(tmp_path: Path) -> None:
    assert record.start_time(os.getpid()) is not None
    odd = tmp_path / "a) Z 1 (b"
    odd.symlink_to("/bin/sleep")
    with subprocess.Popen([str(odd), "300"]) as process:
        assert record.start_time(process.pid) is not None
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert record.start_time(process.pid) is None  # a zombie
    assert record.start_time(process.pid) is None


def test_a_pid_with_another_start_time_is_never_signalled(sleeper: Sleeper) -> None:
    other = Process("kubelet", sleeper.pid, started(sleeper) - 1)
    assert not record.alive(other)
    assert not record.send(other, record.signal.SIGKILL)
    record.end([other], grace=0.1)
    assert sleeper.poll() is None


def test_the_recorded_process_is_ended_and_only_it(sleeper: Sleeper, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    book = Book(tmp_path)
    mine = book.spawn("deaf", ["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done"])
    assert record.read(tmp_path) == book.record
    assert book.record.processes == (mine,)
    assert Book.of(tmp_path).record == book.record
    log = tmp_path / "logs" / "deaf.log"
    while log.read_text() != "up\n":
        assert record.alive(mine)
    record.end(book.record.processes, grace=0.1)  # it ignores SIGTERM
    assert not record.alive(mine)
    assert sleeper.poll() is None


def test_a_part_that_is_started_again_takes_its_place_in_the_record(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    book = Book(tmp_path)
    first = book.spawn("etcd", ["/bin/sleep", "300"])
    record.end([first])
    again = Book.of(tmp_path).spawn("etcd", first.argv)
    assert Book.of(tmp_path).record.processes == (again,)
    assert again.argv == first.argv
    record.end([again])


def test_a_leftover_of_another_boot_has_no_processes_to_end(
    sleeper: Sleeper, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    mine = Process("etcd", sleeper.pid, started(sleeper))
    record.write(folder, Record(boot="another", processes=(mine,)))
    takedown.take_down(folder)
    assert not folder.exists()
    assert sleeper.poll() is None


def test_take_down_ends_the_recorded_and_removes_the_folder(
    sleeper: Sleeper, tmp_path: Path
) -> None:
    folder = tmp_path / "state"
    (folder / "logs").mkdir(parents=True)
    book = Book(folder)
    mine = book.spawn("etcd", ["/bin/sleep", "300"])
    book.enter("processes", Process("reused", sleeper.pid, started(sleeper) + 1))
    takedown.take_down(folder)
    assert not record.alive(mine)
    assert sleeper.poll() is None
    assert not folder.exists()
    takedown.take_down(folder)  # nothing is there: nothing happens


def test_a_folder_without_a_record_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(takedown.Leftover, match="holds no record"):
        takedown.take_down(tmp_path)
    assert (tmp_path / "mine").read_text() == "kept"


def test_only_shims_of_our_sockets_are_found(tmp_path: Path) -> None:
    shim = tmp_path / "containerd-shim-runc-v2"
    shim.symlink_to(sys.executable)
    sleep = "import time; time.sleep(300)"
    words = [str(shim), "-c", sleep, "-namespace", "k8s.io", "-address"]
    with (
        subprocess.Popen([*words, "/ours.sock"]) as ours,
        subprocess.Popen([*words, "/theirs.sock"]) as theirs,
    ):
        try:
            assert [p.pid for p in takedown.shims(("/ours.sock",))] == [ours.pid]
        finally:
            ours.kill()
            theirs.kill()
