"""Engines that hang: found out, replaced, and what they held is answered elsewhere or told so."""

import json
import os
import signal
from pathlib import Path

import pytest

import running
from faulty import body, closes, engine, fault


def impatient(**args: object) -> str:
    """A sim whose engine may stand still for a second."""
    return running.sim(**args).replace("type: sim,", "type: sim, stallSeconds: 1,")  # type: ignore[arg-type]


def replaced(up: running.Platform, first: dict[str, object]) -> None:
    """The engine of before is gone, and it was said why."""
    running.wait_for(lambda: not Path(f"/proc/{first['pid']}").exists(), "the old engine's end")
    said = [one["message"] for one in up.told("error")]
    assert any(
        one.startswith("EngineHung: no answer got any further for 1 s (engine.stallSeconds)")
        for one in said
    ), said


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_whose_first_token_never_comes_is_answered_by_the_next_engine(
    tmp_path: Path, stream: bool
) -> None:
    with running.platform(tmp_path, impatient()) as up, up.client() as client:
        assert client.post("/v1/chat/completions", json=body(3)).status_code == 200
        first = engine(up)
        fault(up, "hang")
        answer = client.post("/v1/chat/completions", json=body(4, stream=stream))
        assert answer.status_code == 200, answer.text
        assert answer.text.count('"content":" t') == 4 or "t0 t1 t2 t3" in answer.text
        replaced(up, first)
        closes(up)
        tries = up.events(request_id=answer.headers["x-request-id"])
        assert sorted((e["billed"], e["reason"]) for e in tries) == [(False, "retry"), (True, "")]


def test_a_stream_that_stalls_is_told_so_and_billed_what_came(tmp_path: Path) -> None:
    with running.platform(tmp_path, impatient()) as up, up.client() as client:
        assert client.post("/v1/chat/completions", json=body(3)).status_code == 200
        first = engine(up)
        fault(up, "hang@5")
        answer = client.post("/v1/chat/completions", json=body(9, stream=True))
        last = [e for e in answer.text.split("\n\n") if e][-1]
        error = json.loads(last.removeprefix("data: "))["error"]
        assert error["code"] == "engine_broke_off"
        assert "the engine hangs" in error["message"]
        assert "[DONE]" not in answer.text
        replaced(up, first)
        closes(up, {answer.headers["x-request-id"]: 5})
        bill = up.events(request_id=answer.headers["x-request-id"])
        assert [(e["billed"], e["outcome"], e["completion_tokens"]) for e in bill] == [
            (True, "broken", 5)
        ]


def test_a_stopped_process_is_replaced_though_it_accepts_connections(tmp_path: Path) -> None:
    with running.platform(tmp_path, impatient()) as up, up.client() as client:
        assert client.post("/v1/chat/completions", json=body(3)).status_code == 200
        first = engine(up)
        os.kill(first["pid"], signal.SIGSTOP)
        assert client.post("/v1/chat/completions", json=body(4)).status_code == 200
        replaced(up, first)
        assert any("it does not answer /metrics either" in e["message"] for e in up.told("error"))
        closes(up)


def test_a_request_that_hangs_every_engine_is_freed_after_two(tmp_path: Path) -> None:
    # The readiness request asks for one token and is answered.
    with running.platform(tmp_path, impatient(fail="hang@2")) as up, up.client() as client:
        answer = client.post("/v1/chat/completions", json=body(4))
        assert answer.status_code == 502
        assert answer.json()["error"]["code"] == "engine_failed"
        up.settled()
        tries = up.events(request_id=answer.headers["x-request-id"])
        assert [(e["billed"], e["reason"]) for e in tries] == [(False, "retry")] * 2
        assert client.post("/v1/chat/completions", json=body(1)).status_code == 200
        closes(up)


def test_an_engine_that_works_in_silence_is_left_alone(tmp_path: Path) -> None:
    document = impatient(tokens_per_second=3)
    with running.platform(tmp_path, document) as up, up.client() as client:
        answer = client.post("/v1/chat/completions", json=body(12))  # four seconds without a byte
        assert answer.status_code == 200
        up.settled()
        assert not up.told("error")
        assert len(up.events(request_id=answer.headers["x-request-id"])) == 1
