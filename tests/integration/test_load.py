"""`tidegate bench load` against a real platform, a bare engine, and one that fails."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from running import Platform, platform, sim, wait_for

COMMAND = [sys.executable, "-Im", "tidegate_operator.cli", "bench", "load"]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Platform]:
    with platform(tmp_path, sim(idle=600)) as running:
        yield running


def load(up: Platform, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        [*COMMAND, up.base, "--data", str(up.data), "--json", *arguments],
        capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    return done.returncode, json.loads(done.stdout or "{}"), done.stderr


def test_a_closed_loop_is_measured_and_billed_to_the_token(up: Platform, tmp_path: Path) -> None:
    html = tmp_path / "report.html"
    flags = ("--requests", "40", "--concurrency", "4", "--prompt-words", "5,50", "--streams", "0.5")
    code, found, _ = load(up, *flags, "--max-tokens", "6", "--warmup", "0", "--html", str(html))
    assert (code, found["ok"], found["failed"]) == (0, 40, 0)
    assert (found["model"], found["tokens"]["counted_by"]) == ("sim", "server")
    assert found["streams"]["requests"] + found["whole"]["requests"] == 40
    assert found["ttft_seconds"]["n"] == found["streams"]["requests"]
    assert found["itl_seconds"]["n"] == 5 * found["streams"]["requests"]
    assert [group["words"] for group in found["by_prompt_words"]] == [5, 50]
    assert html.read_text().count("<svg") == 5
    up.settled()
    (usage,) = up.api("/api/v1/usage", tenant="default", by="model")["data"]
    assert usage["completion_tokens"] == found["tokens"]["completion"] == 240
    assert usage["prompt_tokens"] == found["tokens"]["prompt"]


def test_an_open_loop_counts_the_wait_of_a_cold_start(up: Platform) -> None:
    flags = ("--rate", "20", "--even", "--requests", "20", "--max-tokens", "2", "--warmup", "0")
    code, found, _ = load(up, *flags)
    assert (code, found["ok"]) == (0, 20)
    assert found["measured_from"] == "intended send time"
    assert found["late_seconds"]["n"] == 20
    assert found["ttft_seconds"]["max"] > found["ttft_seconds"]["p50"]  # the first one woke it


def test_failures_are_counted_by_kind(tmp_path: Path) -> None:
    with platform(tmp_path, sim(idle=600, fail="crash@3")) as up:
        code, found, _ = load(up, "--requests", "2", "--concurrency", "1", "--warmup", "0")
    assert (code, found["failed"]) == (1, 2)
    assert sum(found["errors"].values()) == 2
    assert found["error_seconds"]["n"] == 2


def test_what_was_measured_before_ctrl_c_is_reported(up: Platform) -> None:
    command = [*COMMAND, up.base, "--data", str(up.data), "--json", "--rate", "20"]
    command += ["--duration", "10m", "--max-tokens", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sending:
        wait_for(lambda: up.metric("tidegate_requests_total") >= 10, "ten answers")
        sending.send_signal(signal.SIGINT)
        out, _ = sending.communicate(timeout=30)
    found = json.loads(out)
    assert (found["interrupted"], found["failed"], sending.returncode) == (True, 0, 0)
    assert 0 < found["ok"] < 1000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://127.0.0.1:1",), "error: the models cannot be listed"),
        (("http://127.0.0.1:1", "--model", "m"), "did not answer the warm-up: ConnectError"),
        (("http://127.0.0.1:1", "--html", "/nowhere/at/all.html"), "/nowhere/at is not a directory"),
        (("127.0.0.1",), "not a URL"),
        (("http://h", "--prompt-words", "0"), "lengths of 1 to"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, *arguments, "--data", str(tmp_path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode in {1, 2}
    assert done.stdout == ""
    assert words in " ".join(done.stderr.split())
