"""Engines that fail under a whole platform: who is told what, and the numbers still close."""

import asyncio
import json
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

import running
from faulty import body, closes, engine, fault


def connections(port: int | None) -> list[str]:
    """Open connections to a local port, as the kernel lists them."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    closed = {"06", "07", "0A"}  # TIME_WAIT, CLOSE, LISTEN
    return [r[2] for r in rows if r[2].endswith(f":{port:04X}") and r[3] not in closed]


async def streams(up: running.Platform, count: int, tokens: int) -> list[tuple[str, str]]:
    """(request id, body) of many streams at once."""
    headers = {"authorization": f"Bearer {up.key}"}
    async with httpx.AsyncClient(
        base_url=up.base, headers=headers, timeout=60, trust_env=False
    ) as client:

        async def one() -> tuple[str, str]:
            answer = await client.post("/v1/chat/completions", json=body(tokens, stream=True))
            return answer.headers["x-request-id"], answer.text

        return list(await asyncio.gather(*(one() for _ in range(count))))


def test_an_engine_that_crashes_in_mid_stream(tmp_path: Path) -> None:
    with running.platform(tmp_path, running.sim()) as up, up.client() as client:
        assert client.post("/v1/chat/completions", json=body(3)).status_code == 200
        first = engine(up)["replica"]
        fault(up, "crash@10")
        answers = asyncio.run(streams(up, 8, 30))
        broken = [(i, t) for i, t in answers if "[DONE]" not in t]
        assert broken
        for _, text in broken:
            last = [e for e in text.split("\n\n") if e][-1]
            assert json.loads(last.removeprefix("data: "))["error"]["code"] == "engine_broke_off"
        again = client.post("/v1/chat/completions", json=body(4))
        assert again.status_code == 200, again.text
        assert engine(up)["replica"] != first, "it was replaced"
        closes(up, {i: t.count('"content":" t') for i, t in answers})
        outcomes = {e["request_id"]: e["outcome"] for e in up.events()}
        assert all(outcomes[i] == "broken" for i, _ in broken)


def test_an_answer_after_a_refused_connection_is_billed(tmp_path: Path) -> None:
    """The engine is gone and the world still lists it, for the operator sleeps: the request's first
    attempt fails to connect, and what answers in the end is another attempt with its own bill."""
    with running.platform(tmp_path, running.sim()) as up, up.client() as client:
        assert client.post("/v1/chat/completions", json=body(3)).status_code == 200
        dead, port = engine(up)["pid"], httpx.URL(engine(up)["url"]).port
        up.process.send_signal(signal.SIGSTOP)
        with ThreadPoolExecutor() as pool:
            try:
                os.kill(dead, signal.SIGKILL)
                # Else the first attempt meets the end of a kept connection, which is another case.
                running.wait_for(lambda: not connections(port), "the kept connection closed")
                answer = pool.submit(client.post, "/v1/chat/completions", json=body(4))
                running.wait_for(lambda: any(e["reason"] == "retry" for e in up.events()), "a try")
            finally:
                up.process.send_signal(signal.SIGCONT)
            assert answer.result().status_code == 200, answer.result().text
        request = answer.result().headers["x-request-id"]
        closes(up)
        bill = [e for e in up.events() if e["request_id"] == request and e["billed"]]
        assert [e["completion_tokens"] for e in bill] == [4]


@pytest.mark.parametrize("kind", ["refuse", "http500", "hang@2", "malformed@2", "no-usage", "slow"])
def test_a_fault_that_passes(tmp_path: Path, kind: str) -> None:
    with running.platform(tmp_path, running.sim()) as up, up.client() as client:
        assert client.post("/v1/chat/completions", json=body(3)).status_code == 200
        fault(up, kind)
        if kind == "hang@2":
            with client.stream("POST", "/v1/chat/completions", json=body(9, stream=True)) as answer:
                assert any("t1" in line for line in answer.iter_lines())
        else:
            client.post("/v1/chat/completions", json=body(5, stream=True))
            client.post("/v1/chat/completions", json=body(5))
        fault(up, None)
        assert client.post("/v1/chat/completions", json=body(6)).status_code == 200
        closes(up)


def test_an_engine_that_lies_about_usage_is_noticed(tmp_path: Path) -> None:
    with running.platform(tmp_path, running.sim()) as up, up.client() as client:
        assert client.post("/v1/chat/completions", json=body(3)).status_code == 200
        fault(up, "wrong-usage")
        client.post("/v1/chat/completions", json=body(7))
        up.settled()
        assert running.audit(up.events(), up.truth())
        assert up.conservation()[0]["unexplained"] != 0


def test_a_start_that_fails_tells_the_held_client_why(tmp_path: Path) -> None:
    with running.platform(tmp_path, running.sim(fail="die-at-start")) as up, up.client() as client:
        answer = client.post("/v1/chat/completions", json=body(3))
        assert answer.status_code == 503
        error = answer.json()["error"]
        assert error["code"] == "model_start_failed"
        assert "EngineExited" in error["message"]
        model = up.models()["sim"]
        assert model["failure"]["reason"] == "EngineExited"
        assert not [e for e in up.events() if e["billed"]]
        streamed = client.post("/v1/chat/completions", json=body(3, stream=True))
        assert streamed.status_code == 503, "a quick failure has its own status"


def test_an_engine_dead_on_its_first_request_is_never_ready(tmp_path: Path) -> None:
    with running.platform(tmp_path, running.sim(fail="http500@1")) as up, up.client() as client:
        answer = client.post("/v1/chat/completions", json=body(3))
        assert answer.status_code == 503
        assert "AnswerFailed" in answer.json()["error"]["message"]


def test_a_start_that_hangs_is_ended_and_made_anew(tmp_path: Path) -> None:
    cold = "heartbeatSeconds: 10"
    document = running.sim(start_seconds=3600)
    assert cold in document
    document = document.replace(cold, f"{cold}, startTimeoutSeconds: 10")
    with running.platform(tmp_path, document) as up, up.client() as client:
        answer = client.post("/v1/chat/completions", json=body(3))
        assert answer.status_code == 503
        message = answer.json()["error"]["message"]
        assert "StartTimeout: no answer within 10 s (coldStart.startTimeoutSeconds)" in message
        assert "its last step: importing" in message
        assert up.models()["sim"]["failure"]["reason"] == "StartTimeout"


def test_a_waiting_stream_gets_heartbeats_and_a_late_failure_in_band(tmp_path: Path) -> None:
    document = running.sim(start_seconds=30, hold=3, heartbeat=1)
    with running.platform(tmp_path, document) as up, up.client() as client:
        plain = client.post("/v1/chat/completions", json=body(3))
        assert plain.status_code == 503
        assert plain.json()["error"]["code"] == "model_not_ready"
        assert int(plain.headers["retry-after"]) > 0
        stream = client.post("/v1/chat/completions", json=body(3, stream=True))
        assert stream.status_code == 200
        assert stream.text.startswith(": held\n\n")
        events = [e for e in stream.text.split("\n\n") if e.startswith("data: ")]
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "model_not_ready"
        assert "[DONE]" not in stream.text
        assert up.metric("tidegate_held") == 0


def test_leaving_while_held_leaves_nothing(tmp_path: Path) -> None:
    with running.platform(tmp_path, running.sim(start_seconds=2)) as up:
        with up.client() as client, pytest.raises(httpx.ReadTimeout):
            client.post("/v1/chat/completions", json=body(3), timeout=0.5)
        running.wait_for(lambda: up.metric("tidegate_held") == 0, "nobody waits")
        running.wait_for(
            lambda: up.models()["sim"]["phase"] == "Ready", "the wake outlives the client"
        )
        up.settled()
        assert {e["reason"] for e in up.events()} == {"probe"}
