"""The demo as a person or a CI job runs it: a process, its JSON, its exit status, nothing left."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

COMMAND = [sys.executable, "-Im", "tidegate_operator.cli", "demo", "--engine", "sim"]
LIMIT_SECONDS = 120


def environment(tmp_path: Path, **more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("TIDEGATE_")}
    return {**kept, "TMPDIR": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), **more}


def left_over(tmp_path: Path) -> list[str]:
    """Processes that still know the demo's directory, and directories it left."""
    found = [str(path) for path in tmp_path.glob("tidegate-demo-*")]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if f"{tmp_path}/tidegate-demo-" in words:
            found.append(words)
    return found


def until_nothing_is_left(tmp_path: Path) -> None:
    deadline = time.monotonic() + 10
    while left_over(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left_over(tmp_path) == []


def test_the_numbers_close_from_zero_to_zero_twice(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--json"],
        env=environment(tmp_path, TIDEGATE_ADMIN_URL="http://127.0.0.1:9"),
        capture_output=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    result: dict[str, Any] = json.loads(done.stdout)
    assert (result["ok"], result["error"], result["engine"]) == (True, None, "sim")
    assert (result["requests"], result["held"]) == (3, 2)
    assert len(result["cold_start_seconds"]) == len(result["first_token_seconds"]) == 2
    # Held while the engine took its second to start, every time.
    assert min(result["cold_start_seconds"]) >= 1
    for kind in ("prompt", "completion"):
        billed, unbilled = result["ledger_tokens"][kind], result["unbilled_tokens"][kind]
        assert result["engine_tokens"][kind] == billed + unbilled
        assert billed > 0
    assert result["own_share_ms"]["n"] == 2
    # 0.10 and 0.40 a million: a tenth of a micro-unit a prompt token, four of them a completion one
    expected = result["ledger_tokens"]["prompt"] * 1 + result["ledger_tokens"]["completion"] * 4
    assert round(float(result["bill"]["amount_exact"]) * 1e7) == expected
    until_nothing_is_left(tmp_path)


def test_people_see_tokens_and_the_closing_table(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "--wakes", "1"],
        env=environment(tmp_path),
        capture_output=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    shown = done.stdout.decode()
    assert done.returncode == 0, shown + done.stderr.decode()
    assert " t0 t1 t2" in shown
    assert "the numbers close" in shown
    until_nothing_is_left(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--wakes", "50"],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 60
    while not any(" -Im tidegate_runtime.engines.sim" in one for one in left_over(tmp_path)):
        assert time.monotonic() < deadline, "no engine was started"
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 130
    assert errors.decode() == "error: interrupted\n"
    until_nothing_is_left(tmp_path)


def test_a_platform_that_cannot_start_is_one_line_and_1(tmp_path: Path) -> None:
    env = environment(tmp_path, TIDEGATE_LOG_LEVEL="loud")
    done = subprocess.run(
        [*COMMAND, "--json"], env=env, capture_output=True, timeout=LIMIT_SECONDS, check=False
    )
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["ok"] is False
    assert "TIDEGATE_LOG_LEVEL" in result["error"]
    until_nothing_is_left(tmp_path)
