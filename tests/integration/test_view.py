"""Watching and steering a real platform: status, logs, wake, sleep, chat."""

import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from running import Platform, platform, sim, wait_for

COMMAND = [sys.executable, "-Im", "tidegate_operator.cli"]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Platform]:
    document = sim(idle=600, start_seconds=0.3) + sim("slow", idle=600, tokens_per_second=20)
    with platform(tmp_path, document) as running:
        yield running


def cli(up: Platform, *arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *arguments, "--data", str(up.data)],
        input=text, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def said(up: Platform, *arguments: str) -> Any:
    done = cli(up, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def ask(up: Platform, model: str, tokens: int = 8) -> dict[str, Any]:
    body = {
        "model": model,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": "a b c"}],
    }
    with up.client() as client:
        answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_wake_status_logs_and_sleep(up: Platform) -> None:
    done = cli(up, "wake", "nobody")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: no model 'nobody'; known: sim, slow\n"
    assert "no engine of sim" in cli(up, "logs", "sim").stderr

    row = said(up, "wake", "sim", "--wait")
    assert (row["phase"], row["ready"], row["held"]) == ("Ready", 1, 0)
    assert not up.operator("/api/v1/cold-starts")["data"]  # nobody waited for it
    assert "ready" in cli(up, "logs", "sim").stdout

    ask(up, "sim")
    up.settled()
    status = said(up, "status")
    (shown,) = (row for row in status["data"] if row["name"] == "sim")
    assert shown["cold_start"]["phases"]
    (usage,) = up.api("/api/v1/usage", tenant="default", by="model")["data"]
    assert [Decimal(one["amount_exact"]) for one in shown["cost"]] == [
        Decimal(usage["amount_exact"])
    ]
    assert status["cost"] == shown["cost"]
    plain = cli(up, "status").stdout
    assert "sim" in plain
    assert f"cost this month: {shown['cost'][0]['amount_exact']} USD" in plain

    row = said(up, "sleep", "sim", "--wait")
    assert (row["phase"], row["ready"], row["draining"]) == ("Idle", 0, 0)
    assert not up.run["engines"]
    ask(up, "sim")  # the next request wakes it
    assert up.models()["sim"]["phase"] == "Ready"
    assert "known: sim, slow" in cli(up, "logs", "nobody").stderr
    up.stop()
    assert "ready" in cli(up, "logs", "sim").stdout
    assert "no platform is running" in cli(up, "wake", "sim").stderr


def test_sleep_lets_what_runs_finish_and_what_comes_wakes_it(up: Platform) -> None:
    answers: list[dict[str, Any]] = []
    said(up, "wake", "slow", "--wait")
    running = threading.Thread(target=lambda: answers.append(ask(up, "slow", 120)))
    running.start()
    wait_for(lambda: up.models()["slow"]["in_flight"], "in flight")
    row = said(up, "sleep", "slow")
    assert (row["desired"], row["reason"]) == (0, "put to sleep; the next request wakes it")
    wait_for(lambda: up.run["engines"][0]["state"] == "draining", "draining")
    assert up.models()["slow"]["in_flight"]
    answers.append(ask(up, "slow", 4))  # comes while it drains
    running.join()
    assert sorted(one["usage"]["completion_tokens"] for one in answers) == [4, 120]
    assert up.models()["slow"]["desired"] == 1


def test_a_model_that_is_kept_warm_sleeps_until_it_is_asked_for(tmp_path: Path) -> None:
    document = sim().replace("maxReplicas: 1", "minReplicas: 1, maxReplicas: 1")
    with platform(tmp_path, document) as up:
        wait_for(lambda: up.models()["sim"]["ready"], "warm")
        said(up, "sleep", "sim", "--wait")
        ask(up, "sim")
        assert up.models()["sim"]["desired"] == 1


def test_chat_answers_twice_and_says_what_it_cost(up: Platform) -> None:
    done = cli(up, "chat", "sim", "--max-tokens", "5", "--json", text="one two\nthree\n")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["text"] == " t0 t1 t2 t3 t4"
    assert (first["prompt_tokens"], first["completion_tokens"]) == (2, 5)
    assert second["prompt_tokens"] == 2 + 5 + 1  # the whole conversation
    for answer in (first, second):
        assert answer["ttft_seconds"] > 0
        (event,) = up.events(request_id=answer["request_id"])
        (cost,) = answer["cost"]
        assert Decimal(cost["amount_exact"]) == Decimal(event["amount_exact"])
    done = cli(up, "chat", "sim", "--max-tokens", "5", text="hello\n")
    assert done.stdout == " t0 t1 t2 t3 t4\n"
    assert "1 tokens in, 5 out" in done.stderr
    assert "0.0000021 USD" in done.stderr
    done = cli(up, "chat", "nobody", text="hello\n")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")


def test_chat_says_what_it_waits_for(tmp_path: Path) -> None:
    with platform(tmp_path, sim(start_seconds=3)) as up:
        done = cli(up, "chat", "sim", text="hello\n")
    assert done.returncode == 0, done.stderr
    assert "(sim is starting: " in done.stderr


def test_a_start_that_fails_is_said(tmp_path: Path) -> None:
    with platform(tmp_path, sim(fail="die-at-start")) as up:
        for _ in range(2):  # the second time it waits out the back-off first
            done = cli(up, "wake", "sim", "--wait")
            assert done.returncode == 1
            assert "sim: Failed, EngineExited" in done.stdout
            assert done.stderr == "error: sim did not start\n"
        starts = [
            line
            for line in (up.data.parent / "up.out").read_text().splitlines()
            if "EngineExited" in line and '"error"' in line
        ]
        assert len(starts) == 2
        assert "out of memory" in cli(up, "logs", "sim").stdout


def test_logs_are_followed_over_replicas(tmp_path: Path) -> None:
    with platform(tmp_path, sim(idle=600)) as up:
        command = [*COMMAND, "logs", "sim", "-f", "--data", str(up.data)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as following:
            assert following.stdout is not None
            for _ in range(2):
                said(up, "wake", "sim", "--wait")
                while '"ready"' not in following.stdout.readline():
                    pass
                said(up, "sleep", "sim", "--wait")
            following.send_signal(signal.SIGINT)
            assert following.wait(20) == 0


def test_chat_tells_an_answer_from_what_is_none() -> None:
    """A web server that is no gateway, and a stream that ends in the middle: exit 1, and why."""
    said = b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'
    for kind, body, out, words in (
        ("text/html", b"<p>Welcome</p>", "", "answered with text/html, not with a stream"),
        ("text/event-stream", said, "half\n", "the answer broke off"),
        ("text/event-stream", b"", "", "ended its answer before"),
    ):
        with answering(kind, body) as url:
            done = subprocess.run(
                [*COMMAND, "chat", "m", "--base-url", url],
                input="hello\nand more\n", capture_output=True, text=True, timeout=60, check=False,
                env={**os.environ, "TIDEGATE_API_KEY": "k"},
            )  # fmt: skip
        assert (done.returncode, done.stdout) == (1, out)
        assert words in done.stderr


@contextlib.contextmanager
def answering(kind: str, body: bytes) -> Iterator[str]:
    """A server that answers every request with this."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(200)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
