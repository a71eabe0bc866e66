"""What is seen of files and directories, and when it has come to rest. Time is an argument."""

import os
from pathlib import Path

import pytest

from tidegate_operator.local import files
from tidegate_operator.local.files import GONE_SECONDS, QUIET_SECONDS, Look, Settling, Stamp, look

A, B = Path("a.yaml"), Path("b.yaml")
OLD, NEW = Stamp(1, 10, 1, 1), Stamp(2, 10, 1, 1)


def names(seen: Look) -> list[str]:
    return [path.name for path in seen.files]


def test_a_directory_is_read_by_name_and_not_deeper(tmp_path: Path) -> None:
    for name in ("b.yml", "a.yaml", "notes.txt", ".hidden.yaml"):
        (tmp_path / name).write_text("x")
    (tmp_path / ".#a.yaml").symlink_to("user@host.1234")  # an editor's lock
    (tmp_path / "deep.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    assert names(look([tmp_path], Look())) == ["a.yaml", "b.yml"]
    assert names(look([tmp_path / "b.yml", tmp_path], Look())) == ["b.yml", "a.yaml"]


def test_a_directory_that_is_gone_keeps_what_was_seen_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "a.yaml").write_text("x")
    first = look([folder], Look())
    folder.rename(tmp_path / "away")
    then = look([folder], first)
    assert then.files == first.files
    assert then.blind == {folder: "No such file or directory"}
    (tmp_path / "away").rename(folder)
    (folder / "a.yaml").unlink()
    last = look([folder], then)
    assert (last.files, last.blind) == ({}, {})


def test_a_file_that_is_gone_is_gone_and_may_come_back(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    assert look([path], Look()) == Look()
    path.write_text("x")
    seen = look([path], Look())
    assert names(seen) == ["a.yaml"]
    path.unlink()
    assert look([path], seen) == Look()


def test_an_editors_rename_over_a_file_is_seen(tmp_path: Path) -> None:
    path, other = tmp_path / "a.yaml", tmp_path / "a.yaml.tmp"
    path.write_text("one")
    first = look([path], Look())
    other.write_text("two")
    known = path.stat()
    os.utime(other, ns=(known.st_atime_ns, known.st_mtime_ns))  # of the same size and age
    other.rename(path)
    assert look([path], first).files != first.files


def test_a_mounted_directory_that_is_swapped_is_seen(tmp_path: Path) -> None:
    """As Kubernetes does it: a.yaml -> ..data/a.yaml, ..data -> ..2026_1."""
    for version in ("..2026_1", "..2026_2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "a.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    first = look([tmp_path], Look())
    (tmp_path / "..new").symlink_to("..2026_2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    then = look([tmp_path], first)
    assert names(then) == names(first) == ["a.yaml"]
    assert then.files != first.files


def test_a_link_to_nothing_is_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").symlink_to("nowhere")
    seen = look([tmp_path], Look())
    assert list(seen.files.values()) == [Stamp()]
    (problem,) = files.read(tmp_path / "a.yaml").problems
    assert str(problem) == f"{tmp_path}/a.yaml: cannot be read: No such file or directory"


def test_nothing_new_is_nothing_to_read() -> None:
    settling = Settling({A: OLD})
    assert settling.rested({A: OLD}, 100.0) == []
    assert not settling.moving


def test_a_change_is_read_once_when_it_rests() -> None:
    settling = Settling({A: OLD})
    assert settling.rested({A: NEW}, 100.0) == []
    assert settling.moving
    assert settling.rested({A: NEW}, 100.0 + QUIET_SECONDS) == [A]
    assert not settling.moving
    assert settling.rested({A: NEW}, 101.0) == []


def test_what_is_still_written_is_waited_for_but_not_for_ever() -> None:
    settling = Settling({A: OLD, B: OLD})
    now, size = 100.0, 10
    while now < 100 + files.STUBBORN_SECONDS:
        size += 1
        assert settling.rested({A: Stamp(2, size, 1, 1), B: NEW}, now) == []
        now += 0.1
    assert settling.rested({A: Stamp(2, size + 1, 1, 1), B: NEW}, now + 0.1) == [B]


@pytest.mark.parametrize("away", [None, Stamp(2, 0, 1, 1)])
def test_a_file_that_is_away_or_empty_for_a_moment_is_not_gone(away: Stamp | None) -> None:
    there = {} if away is None else {A: away}
    settling = Settling({A: OLD})
    assert settling.rested(there, 100.0) == []
    assert settling.rested(there, 100.0 + GONE_SECONDS / 2) == []
    assert settling.rested({A: OLD}, 100.0 + GONE_SECONDS) == []
    assert not settling.moving
    assert settling.rested(there, 200.0) == []
    assert settling.rested(there, 200.0 + GONE_SECONDS) == [A]


def test_a_renamed_file_is_gone_and_come_at_one_moment() -> None:
    settling = Settling({A: OLD})
    assert settling.rested({B: OLD}, 100.0) == []
    assert settling.rested({B: OLD}, 100.0 + QUIET_SECONDS) == []
    assert set(settling.rested({B: OLD}, 100.0 + GONE_SECONDS)) == {A, B}


def test_what_up_begins_with(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    missing = tmp_path / "no.yaml"
    found = files.first([tmp_path / "folder", missing])
    assert [str(problem) for problem in found.problems] == [f"{missing}: does not exist"]
    assert (found.parsed, found.look.folders) == ({}, {tmp_path / "folder"})


def test_a_file_that_may_be_read_now_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("x")
    path.chmod(0o000)
    first = look([path], Look())
    path.chmod(0o644)
    assert look([path], first).files != first.files


def test_a_name_that_is_not_utf_8_can_be_told(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.yaml")
    path.write_text("x: [")
    parsed = files.first([tmp_path]).parsed
    assert list(parsed) == [f"{tmp_path}/caf\\xe9.yaml"]
    (problem,) = parsed[files.named(path)].problems
    assert problem.file == f"{tmp_path}/caf\\xe9.yaml"
