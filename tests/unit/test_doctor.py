"""`tidegate doctor`: every check as a table of readings, and one look at a real machine."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tidegate_operator.cli import app
from tidegate_operator.cli.doctor import text
from tidegate_operator.local import checkup, datadir, leftovers, readings
from tidegate_operator.local.checkup import GIB, Disk, Finding, Port, Readings
from tidegate_operator.local.machine import Memory
from tidegate_operator.local.options import UpOptions

DATA, CACHE = Path("/d"), Path("/c")
GOOD = Readings(
    python=(3, 12),
    system="Linux",
    processor="x86_64",
    flags=frozenset({"avx2", "avx512f"}),
    cores=8,
    memory=Memory(32 * GIB, 16 * GIB),
    disks=[Disk("DATA", DATA, 100 * GIB), Disk("CACHE", CACHE, 100 * GIB)],
    ports=[Port("PORT", "127.0.0.1:8080")],
    now=1_800_000_000.0,
    synchronized=True,
)
TAKEN = [
    Port("PORT", "127.0.0.1:8080", "Address already in use"),
    Port("OPS_PORT", "127.0.0.1:9090"),
]


def test_a_good_machine() -> None:
    found = checkup.examine(GOOD)
    assert {finding.verdict for finding in found} == {"ok"}
    assert not any(finding.do for finding in found)
    assert checkup.healthy(found)
    assert text(found).endswith("0 failed, 0 to look at")


@pytest.mark.parametrize(
    ("check", "changes", "verdict", "words"),
    [
        ("python", {"python": (3, 10)}, "fail", "Python 3.10"),
        ("python", {"python": (3, 11)}, "ok", "Python 3.11"),
        ("python", {"python": (3, 14)}, "warn", "vLLM does not know"),
        ("system", {"system": "Darwin"}, "fail", "Linux"),
        ("system", {"processor": "riscv64"}, "warn", "no build"),
        ("system", {"processor": "aarch64"}, "ok", "aarch64"),
        ("processor", {"flags": frozenset()}, "warn", "no AVX2"),
        ("processor", {"flags": frozenset({"avx2"})}, "ok", "AVX2"),
        ("processor", {"flags": frozenset({"avx2", "amx_bf16"})}, "warn", "leave --dtype alone"),
        (
            "processor",
            {"flags": frozenset({"avx2", "avx512_bf16"})},
            "warn",
            "avx512_bf16: vLLM would",
        ),
        ("memory", {"memory": Memory(32 * GIB, GIB // 2 - 1)}, "fail", "0.5 GiB of 32.0 GiB"),
        ("memory", {"memory": Memory(32 * GIB, GIB // 2)}, "warn", "a small vLLM takes about 3.5"),
        ("memory", {"memory": Memory(4 * GIB, checkup.SMALL_ENGINE)}, "ok", "3.5 GiB of 4.0 GiB"),
        ("memory", {"shared": 64 * 2**20}, "warn", "--shm-size"),
        ("disk", {"disks": [Disk("DATA", DATA, GIB // 4 - 1)]}, "fail", "/d: 0.2 GiB free"),
        ("disk", {"disks": [Disk("DATA", DATA, GIB)]}, "warn", "TIDEGATE_DATA"),
        ("disk", {"disks": [Disk("DATA", DATA, 2 * GIB)]}, "ok", "/d: 2.0 GiB free"),
        ("disk", {"disks": [Disk("DATA", DATA, GIB, "cannot be written: x")]}, "fail", "writable"),
        ("disk", {"disks": [Disk("CACHE", CACHE, 7 * GIB)]}, "warn", "6 GB there, once"),
        ("disk", {"disks": [Disk("CACHE", CACHE, 7 * GIB)], "vllm": True}, "ok", "7.0 GiB"),
        ("disk", {"disks": [Disk("CACHE", CACHE, GIB)], "vllm": True}, "warn", "cache prune"),
        ("ports", {"ports": TAKEN}, "fail", "TIDEGATE_PORT (0 = any free one)"),
        ("ports", {"ports": TAKEN, "running": True}, "ok", "by the platform that runs here"),
        ("clock", {"now": 1_700_000_000.0}, "fail", "years behind"),
        ("clock", {"synchronized": False}, "warn", "NTP"),
        ("clock", {"synchronized": None}, "ok", "plausible"),
        (
            "processes",
            {"leftovers": [7, 9]},
            "warn",
            "2 of a platform that was killed still run: 7 9",
        ),
        ("processes", {"running": True}, "ok", "a platform runs here"),
        ("files", {"files": 1024}, "warn", "LimitNOFILE"),
        ("engine", {"vllm": True}, "ok", "is installed"),
        ("engine", {"uv": False}, "warn", "pip install uv"),
    ],
)
def test_a_check(check: str, changes: dict[str, Any], verdict: str, words: str) -> None:
    found = checkup.examine(dataclasses.replace(GOOD, **changes))
    mine = [one for one in found if one.check == check]
    worst = max(mine, key=lambda one: ("ok", "warn", "fail").index(one.verdict))
    assert worst.verdict == verdict
    assert words in f"{worst.found} {worst.do}"
    assert bool(worst.do) == (verdict != "ok")
    assert checkup.healthy(found) == (verdict != "fail")
    others = [one for one in found if one.check not in {check, "processes", "processor"}]
    assert {one.verdict for one in others} == {"ok"}


def test_the_text_says_what_to_do() -> None:
    shown = text([Finding("clock", "ok", "fine"), Finding("disk", "fail", "full", "make room")])
    assert shown.splitlines() == [
        "  ok  clock      fine",
        "FAIL  disk       full",
        "                 -> make room",
        "1 failed, 0 to look at",
    ]


def options(tmp_path: Path, port: int = 0) -> UpOptions:
    data, cache = tmp_path / "not" / "made" / "data", tmp_path / "cache"
    return UpOptions(files=(), data=data, cache=cache, port=port, admin_port=0, ops_port=0)


def test_this_machine_is_read_and_left_as_it_was(tmp_path: Path) -> None:
    seen = readings.take(options(tmp_path))
    assert seen.python == sys.version_info[:2]
    assert seen.cores >= 1
    assert (seen.running, seen.leftovers, seen.vllm) == (False, [], False)
    assert [disk.error for disk in seen.disks] == ["", ""]
    assert not any(port.error for port in seen.ports)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_a_running_up_and_what_a_killed_one_left(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        seen = readings.take(options(tmp_path, other.getsockname()[1]))
    assert [port.setting for port in seen.ports if port.error] == ["PORT"]
    chosen = options(tmp_path)
    held = datadir.lock(chosen.data)
    assert readings.take(chosen).running
    os.close(held)
    env = os.environ | {leftovers.MARK: f"{chosen.data.resolve()}:1"}
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], env=env, stdin=subprocess.PIPE
    ) as left:
        try:
            seen = readings.take(chosen)
            assert (seen.running, seen.leftovers) == (False, [left.pid])
        finally:
            left.kill()


@pytest.mark.parametrize("taken", [False, True])
def test_the_command(
    taken: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        settings = {
            "PORT": str(other.getsockname()[1] if taken else 0), "ADMIN_PORT": "0", "OPS_PORT": "0",
        }  # fmt: skip
        for name, value in settings.items():
            monkeypatch.setenv(f"TIDEGATE_{name}", value)
        place = ["--data", str(tmp_path / "d"), "--cache", str(tmp_path / "c")]
        with pytest.raises(SystemExit) as ended:
            app.run(["doctor", "--json", *place])
        said = json.loads(capsys.readouterr().out)
        ports = [row["verdict"] for row in said["data"] if row["check"] == "ports"]
        assert ports == (["fail"] if taken else ["ok"])
        if taken:
            assert (ended.value.code, said["ok"]) == (1, False)
        assert ended.value.code == (0 if said["ok"] else 1)
