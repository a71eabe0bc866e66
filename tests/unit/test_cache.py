"""`tidegate cache`: what is listed, what is thrown away, and what never is."""

import json
import os
import time
from pathlib import Path

import pytest

from tidegate_operator.cli import app
from tidegate_operator.local import shelf
from tidegate_operator.local.shelf import Entry

DAY = 24 * 3600.0
NOW = time.time()
A, B = "a" * 40, "b" * 40


def write(path: Path, size: int, age: float = 40 * DAY) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    for place in (path, path.parent):
        os.utime(place, (NOW - age, NOW - age))
    return path


def hub_model(cache: Path, name: str, commits: dict[str, dict[str, int]]) -> Path:
    """A repository in the hub library's layout; files by size, the same size is the same file."""
    root = cache / "hub" / f"models--{name.replace('/', '--')}"
    for commit, files in commits.items():
        for path, size in files.items():
            blob = write(root / "blobs" / f"{size:064}", size)
            link = root / "snapshots" / commit / path
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        os.utime(root / "snapshots" / commit, (NOW - 40 * DAY,) * 2)
        pin = {"repository": name, "revision": commit, "commit": commit}
        place = str((root / "snapshots" / commit).relative_to(cache / "hub"))
        pin_file = cache / "hub" / "pins" / f"{commit[:16]}.json"
        write(pin_file, 0).write_text(json.dumps(pin | {"path": place}))
    return root


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    root = tmp_path / "cache"
    write(root / "engines" / "vllm-1" / ".complete", 10)
    write(root / "engines" / "vllm-1.lock", 0)
    write(root / "packages" / "llm-m-0.1" / "m.gguf", 20)
    write(root / "models" / "0123" / "model.safetensors", 30)
    write(root / "models" / "0123.999999999.tmp" / "half", 5)
    write(root / "models" / f"4567.{os.getpid()}.tmp" / "half", 5)
    write(root / "hub" / "partial" / "c", 7)
    write(root / "images" / "somebody-elses", 99)
    hub_model(root, "o/n", {A: {"config.json": 100, "m.safetensors": 1000},
                            B: {"config.json": 101, "m.safetensors": 1000}})  # fmt: skip
    return root


def kinds(entries: list[Entry]) -> set[tuple[str, str, int, bool]]:
    return {(entry.kind, entry.name, entry.size, entry.busy) for entry in entries}


def test_what_is_listed(cache: Path) -> None:
    assert (
        kinds(shelf.entries(cache))
        == {
            ("engine", "vllm-1", 10, False),
            ("package", "llm-m-0.1", 20, False),
            ("converted", "0123", 30, False),
            ("unfinished", "models/0123.999999999.tmp", 5, False),
            ("unfinished", f"models/4567.{os.getpid()}.tmp", 5, True),  # its maker lives
            ("unfinished", "hub/partial/c", 7, False),
            ("hub", f"o/n@{A[:12]}", 1100, False),
            ("hub", f"o/n@{B[:12]}", 1101, False),
        }
    )
    assert shelf.entries(cache / "nowhere") == []


@pytest.mark.parametrize(
    ("age", "busy", "older_than", "goes"),
    [(40, False, 30, True), (30, False, 30, True), (29, False, 30, False), (40, True, 30, False),
     (0, False, 0, True)],
)  # fmt: skip
def test_what_is_stale(age: float, busy: bool, older_than: float, goes: bool) -> None:
    entry = Entry("package", "p", Path("/c/p"), 1, NOW - age * DAY, busy)
    assert shelf.stale([entry], NOW, older_than * DAY) == ([entry] if goes else [])


def test_what_is_held_is_busy_and_was_used_now(cache: Path) -> None:
    used = [
        cache / "engines" / "vllm-1" / "bin" / "python",
        cache / "models" / "0123",
        cache / "hub" / "models--o--n" / "snapshots" / A / "x.gguf",
        Path("/somewhere/else"),
    ]
    held = [fd for path in used for fd in shelf.hold(cache, path)]
    held += shelf.hold(cache, used[1])  # two platforms may use one model
    found = {entry.name: entry for entry in shelf.entries(cache)}
    for name in ("vllm-1", "0123", f"o/n@{A[:12]}"):
        assert found[name].busy
        assert found[name].used > NOW - 60
        assert not shelf.remove(cache, found[name])
    assert not found["llm-m-0.1"].busy
    shelf.release(held)
    assert held == []
    found = {entry.name: entry for entry in shelf.entries(cache)}
    assert not found["0123"].busy
    assert found["0123"].used > NOW - 60, "that it was used is known afterwards"
    assert found["0123"].path.exists()


def test_a_commit_goes_and_leaves_what_others_share(cache: Path) -> None:
    root = cache / "hub" / "models--o--n"
    found = {entry.name: entry for entry in shelf.entries(cache)}
    assert shelf.remove(cache, found[f"o/n@{A[:12]}"])
    assert sorted(path.stat().st_size for path in (root / "blobs").iterdir()) == [101, 1000]
    assert (root / "snapshots" / B / "m.safetensors").stat().st_size == 1000
    assert [path.name for path in (cache / "hub" / "pins").iterdir()] == [f"{B[:16]}.json"]
    assert shelf.remove(cache, found[f"o/n@{B[:12]}"])
    assert not root.exists()
    assert not list((cache / "hub" / "pins").iterdir())


def test_a_cache_that_cannot_be_written_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "in-use").write_text("a file where a folder should be")
    assert shelf.hold(tmp_path, tmp_path / "models" / "x") == []


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        app.run(["cache", *arguments])
    assert ended.value.code == 0
    return capsys.readouterr().out


def test_the_command_lists_and_prunes(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ("--cache", str(cache))
    held = shelf.hold(cache, cache / "engines" / "vllm-1")
    shown = run(capsys, "list", *place)
    assert "in use" in shown
    assert "llm-m-0.1" in shown
    would = json.loads(run(capsys, "prune", *place, "--dry-run", "--json"))
    assert would["dry_run"]
    assert would["freed"] == sum(row["size"] for row in would["data"]) == 20 + 30 + 5 + 7 + 2201
    assert len(json.loads(run(capsys, "list", *place, "--json"))["data"]) == 8
    assert json.loads(run(capsys, "prune", *place, "--older-than", "50d", "--json"))["data"] == []
    done = json.loads(run(capsys, "prune", *place, "--json"))
    assert [row["name"] for row in done["data"]] == [row["name"] for row in would["data"]]
    left = json.loads(run(capsys, "list", *place, "--json"))["data"]
    assert {row["name"] for row in left} == {"vllm-1", f"models/4567.{os.getpid()}.tmp"}
    assert (cache / "images" / "somebody-elses").exists()
    assert "nothing to throw away" in run(capsys, "prune", *place)
    shelf.release(held)
