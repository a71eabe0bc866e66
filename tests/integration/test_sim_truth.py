"""What the sim engine says of itself under failure: truth, counters and clients must agree."""

import json
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from sim_process import Sim, running

HI = [{"role": "user", "content": "say something to me"}]
USAGE = {"include_usage": True, "continuous_usage_stats": True}
QUICK = ("--ttft-ms", "1", "--tokens-per-second", "200")


def chat(*, stream: bool = True, **more: Any) -> dict[str, Any]:
    body = {"model": "m", "messages": HI, "max_tokens": 20, "stream": stream, **more}
    return {**body, "stream_options": USAGE} if stream else body


def post(sim: Sim, attempt: str, body: dict[str, Any], timeout: float = 20) -> httpx.Response:
    url = f"{sim.url}/v1/chat/completions"
    return httpx.post(url, json=body, headers=sim.headers(attempt), timeout=timeout)


class Reading:
    """A stream read as far as it goes: the token events, and how it ended."""

    def __init__(self, sim: Sim, attempt: str, body: dict[str, Any], timeout: float = 20) -> None:
        self.usages: list[dict[str, int]] = []
        self.tokens = 0
        self.text = ""
        self.error: httpx.TransportError | None = None
        url = f"{sim.url}/v1/chat/completions"
        try:
            with httpx.stream(
                "POST", url, json=body, headers=sim.headers(attempt), timeout=timeout
            ) as answer:
                for piece in answer.iter_text():
                    self.text += piece
        except httpx.TransportError as error:
            self.error = error
        self.tokens = len(re.findall(r'"content":" t\d+"', self.text))

    @property
    def finished(self) -> bool:
        return "data: [DONE]" in self.text


def until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the state never came"
        time.sleep(0.01)


def said(sim: Sim, attempt: str, field: str) -> Any:
    """A field of the truth, None until the attempt is known."""
    return sim.truth().get(attempt, {}).get(field)


def agree(sim: Sim) -> None:
    """The engine's counters are the sum of its truth."""
    truth, metrics = sim.truth().values(), sim.metrics()
    assert metrics["vllm:generation_tokens_total"] == sum(t["generated_tokens"] for t in truth)
    assert metrics["vllm:prompt_tokens_total"] == sum(t["prompt_tokens"] for t in truth)


@pytest.mark.parametrize("stream", [True, False])
def test_crash_after_tokens(tmp_path: Path, stream: bool) -> None:
    with running(tmp_path, *QUICK, "--fail", "crash@5") as sim:
        assert post(sim, "short", chat(stream=False, max_tokens=4)).status_code == 200
        found = Reading(sim, "dead", chat(stream=stream))
        assert found.error is not None
        assert found.tokens == (5 if stream else 0)
        assert sim.process.wait(10) == 1
        dead = sim.truth()["dead"]
        assert (dead["generated_tokens"], dead["outcome"]) == (5, "crashed")
        assert sim.truth()["short"]["outcome"] == "completed"


def test_crash_before_any_byte(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, "--fail", "crash") as sim:
        found = Reading(sim, "dead", chat())
        assert found.error is not None
        assert found.text == ""
        assert sim.process.wait(10) == 1
        assert sim.truth()["dead"]["outcome"] == "crashed"


def test_crash_takes_the_other_answers_along(tmp_path: Path) -> None:
    with running(tmp_path, "--tokens-per-second", "50") as sim:
        with httpx.stream(
            "POST",
            f"{sim.url}/v1/chat/completions",
            json=chat(max_tokens=9999),
            headers=sim.headers("bystander"),
        ) as answer:
            pieces = answer.iter_text()
            received = next(pieces)
            sim.set_fault("crash@3")
            rest: list[str] = []
            with pytest.raises(httpx.TransportError):
                rest.extend(pieces)
        assert sim.process.wait(10) == 1
        truth = sim.truth()["bystander"]
        assert truth["outcome"] == "crashed"
        received += "".join(rest)
        assert received.count('"content":" t') <= truth["generated_tokens"]


def test_hang_keeps_the_connection_and_can_be_lifted(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, "--fail", "hang@3") as sim:
        found = Reading(sim, "hung", chat(), timeout=0.5)
        assert isinstance(found.error, httpx.ReadTimeout)
        assert found.tokens == 3
        until(lambda: said(sim, "hung", "outcome") == "aborted")
        assert sim.truth()["hung"]["generated_tokens"] == 3
        with httpx.stream(
            "POST",
            f"{sim.url}/v1/chat/completions",
            json=chat(),
            headers=sim.headers("lifted"),
        ) as answer:
            until(lambda: said(sim, "lifted", "generated_tokens") == 3)
            assert sim.metrics()["vllm:num_requests_running"] == 1
            sim.set_fault(None)
            assert "[DONE]" in answer.read().decode()
        agree(sim)


@pytest.mark.parametrize("stream", [True, False])
def test_hang_before_any_byte(tmp_path: Path, stream: bool) -> None:
    with running(tmp_path, *QUICK, "--fail", "hang") as sim:
        with pytest.raises(httpx.ReadTimeout):
            post(sim, "hung", chat(stream=stream), timeout=0.3)
        until(lambda: said(sim, "hung", "outcome") == "aborted")
        agree(sim)


def test_refuse_resets_before_any_byte(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, "--fail", "refuse@2") as sim:
        assert post(sim, "one", chat()).status_code == 200
        with pytest.raises(httpx.ReadError):
            post(sim, "two", chat())
        assert post(sim, "three", chat()).status_code == 200
        assert [line["outcome"] for line in sim.truth().values()] == [
            "completed",
            "error",
            "completed",
        ]
        agree(sim)


def test_http500_always_and_at_the_nth(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, "--fail", "http500") as sim:
        answers = [post(sim, f"a{n}", chat()) for n in range(2)]
        assert [answer.status_code for answer in answers] == [500, 500]
        assert answers[0].json()["error"]["type"] == "InternalServerError"
        assert httpx.get(f"{sim.url}/health").status_code == 200
        sim.set_fault("http500@2")
        assert [post(sim, f"b{n}", chat()).status_code for n in range(3)] == [200, 500, 200]
        agree(sim)


@pytest.mark.parametrize("stream", [True, False])
def test_malformed(tmp_path: Path, stream: bool) -> None:
    with running(tmp_path, *QUICK, "--fail", "malformed@4") as sim:
        found = Reading(sim, "bad", chat(stream=stream))
        assert not found.finished
        assert found.tokens == (4 if stream else 0)
        last = [part for part in found.text.split("\n\n") if part][-2 if stream else -1]
        with pytest.raises(json.JSONDecodeError):
            json.loads(last.removeprefix("data: "))
        truth = sim.truth()["bad"]
        assert (truth["generated_tokens"], truth["outcome"]) == (4, "error")
        agree(sim)


def test_no_usage_and_wrong_usage(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, "--fail", "no-usage@1", "--fail", "wrong-usage@2") as sim:
        assert '"usage"' not in Reading(sim, "none", chat()).text
        assert '"completion_tokens":40' in Reading(sim, "wrong", chat()).text
        assert '"completion_tokens":20' in Reading(sim, "right", chat()).text
        assert {line["generated_tokens"] for line in sim.truth().values()} == {20}
        sim.set_fault("no-usage")
        assert "usage" not in post(sim, "whole", chat(stream=False)).json()
        sim.set_fault(["wrong-usage"])
        assert post(sim, "whole2", chat(stream=False)).json()["usage"]["prompt_tokens"] == 8


def test_slow_is_ten_times_slower(tmp_path: Path) -> None:
    with running(tmp_path, "--ttft-ms", "1", "--tokens-per-second", "1000") as sim:
        sim.set_fault("slow")
        begun = time.monotonic()
        assert Reading(sim, "slow", chat(max_tokens=31)).tokens == 31
        assert time.monotonic() - begun >= 0.3


@pytest.mark.parametrize("body", ['{"fail": "explode"}', '{"fail": "die-at-start"}', "{", "{}"])
def test_bad_faults_are_refused(tmp_path: Path, body: str) -> None:
    with running(tmp_path) as sim:
        answer = httpx.put(f"{sim.url}/sim/faults", content=body, headers=sim.headers())
        assert answer.status_code == 400
        assert answer.json()["error"]["message"].startswith("fail: ")


@pytest.mark.parametrize("rate", ["50", "0"])
def test_kill_9_leaves_the_truth(tmp_path: Path, rate: str) -> None:
    with running(tmp_path, "--tokens-per-second", rate) as sim:
        received = b""
        with _stream(sim, "killed", 500_000) as peer:
            while received.count(b'"content":" t') < 20:
                received += peer.recv(65536)
            sim.kill()
            received += _rest(peer)
        truth = sim.truth()["killed"]
        assert truth["outcome"] == "running"
        tokens = received.count(b'"content":" t')
        assert 20 <= tokens <= truth["sent_tokens"] <= truth["generated_tokens"]


def test_a_client_that_leaves_stops_the_generation(tmp_path: Path) -> None:
    with running(tmp_path, "--tokens-per-second", "100") as sim:
        received = b""
        with _stream(sim, "left", 100_000) as peer:
            while received.count(b'"content":" t') < 10:
                received += peer.recv(65536)
        until(lambda: said(sim, "left", "outcome") == "aborted")
        truth = sim.truth()["left"]
        assert 10 <= truth["generated_tokens"] < 1000
        assert sim.metrics()["vllm:num_requests_running"] == 0
        agree(sim)
        with pytest.raises(httpx.ReadTimeout):
            post(sim, "left-whole", chat(stream=False, max_tokens=100_000), timeout=0.2)
        until(lambda: said(sim, "left-whole", "outcome") == "aborted")
        agree(sim)


def test_a_client_that_does_not_read_does_not_slow_the_engine(tmp_path: Path) -> None:
    with running(tmp_path, "--tokens-per-second", "0") as sim:
        with _stream(sim, "idle", 100_000) as peer:
            until(lambda: said(sim, "idle", "generated_tokens") == 100_000)
            assert sim.truth()["idle"]["sent_tokens"] < 100_000
            assert sim.metrics()["vllm:num_requests_running"] == 0
            received = _rest(peer)
        assert received.count(b'"content":" t') == 100_000
        assert b"data: [DONE]" in received
        assert sim.truth()["idle"]["outcome"] == "completed"
        status = Path(f"/proc/{sim.pid}/status").read_text()
        peak = int(re.findall(r"VmHWM:\s+(\d+)", status)[0])
        assert peak < 60 * 1024, "what lags is rendered late, never kept"


def test_a_lagging_client_that_leaves_is_an_abort(tmp_path: Path) -> None:
    with running(tmp_path, "--tokens-per-second", "0") as sim:
        with _stream(sim, "gone", 100_000):
            until(lambda: said(sim, "gone", "generated_tokens") == 100_000)
        until(lambda: said(sim, "gone", "outcome") == "aborted")
        assert sim.truth()["gone"]["sent_tokens"] < 100_000
        agree(sim)


def test_an_engine_that_cannot_keep_the_truth_answers_nothing(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, "--truth", "/dev/full") as sim:
        found = Reading(sim, "untold", chat())
        assert found.error is not None
        assert found.text == ""
        assert sim.process.wait(10) == 1


def _stream(sim: Sim, attempt: str, tokens: int) -> socket.socket:
    body = json.dumps(chat(max_tokens=tokens)).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {sim.guard}\r\n"
        f"x-request-id: {attempt}\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    peer = socket.create_connection(("127.0.0.1", sim.port), timeout=20)
    peer.sendall(head.encode() + body)
    return peer


def _rest(peer: socket.socket) -> bytes:
    pieces = []
    try:
        while piece := peer.recv(1 << 18):
            pieces.append(piece)
    except ConnectionResetError:
        pass
    return b"".join(pieces)
