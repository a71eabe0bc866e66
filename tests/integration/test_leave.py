"""What a pod does before its engine is told to stop: wait for the last answer, and for its reader."""

import subprocess
import sys
import threading
from pathlib import Path

import httpx

from sim_process import Sim, running
from tidegate_runtime.engines import leave


def left(sim: Sim, least: float, most: float, secret: str) -> "subprocess.Popen[bytes]":
    """The program as a pod runs it."""
    words = (sys.executable, "-I", "-S", str(Path(leave.__file__)), str(sim.port))
    env = {"ENGINE_GUARD_SECRET": secret}
    return subprocess.Popen([*words, str(least), str(most)], env=env)


def test_it_waits_for_the_last_answer_and_its_reader(tmp_path: Path) -> None:
    with running(tmp_path, "--ttft-ms", "1", "--tokens-per-second", "20") as sim:
        body = {
            "model": "m", "max_tokens": 60, "stream": True,
            "messages": [{"role": "user", "content": "a"}],
        }  # fmt: skip
        url, done = f"{sim.url}/v1/chat/completions", threading.Event()
        with httpx.stream("POST", url, json=body, headers=sim.headers("one")) as answer:
            lines = answer.iter_lines()
            next(lines)
            going = left(sim, 0, 60, sim.guard)

            def ended() -> None:
                going.wait()
                done.set()

            threading.Thread(target=ended, daemon=True).start()
            assert "data: [DONE]" in list(lines)
            assert not done.is_set(), "it went before the last answer did"
        assert done.wait(20)
        assert going.returncode == 0


def test_it_waits_no_longer_than_it_may(tmp_path: Path) -> None:
    with running(tmp_path, "--fail", "hang@1") as sim:
        body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "a"}]}
        url = f"{sim.url}/v1/chat/completions"
        with httpx.stream("POST", url, json=body, headers=sim.headers("one")) as answer:
            assert answer.status_code == 200
            assert left(sim, 0, 1, sim.guard).wait(20) == 0


def test_an_engine_that_does_not_tell_is_left_after_the_least_time(tmp_path: Path) -> None:
    with running(tmp_path) as sim:
        assert left(sim, 0, 60, "wrong").wait(20) == 0
    assert left(sim, 0, 60, sim.guard).wait(20) == 0, "it is gone"


def test_both_counts_of_the_real_engine_are_read() -> None:
    text = (
        "# HELP vllm:num_requests_running help\n# TYPE vllm:num_requests_running gauge\n"
        'vllm:num_requests_running{engine="0",model_name="m"} 2.0\n'
        'vllm:num_requests_waiting{engine="0",model_name="m"} 1.0\n'
        'vllm:generation_tokens_total{engine="0",model_name="m"} 900.0\n'
    )
    assert leave.busy(text) == 3


def test_one_that_stands_still_is_not_taken_for_idle() -> None:
    said = iter(["", TimeoutError("it stands still"), "", "", "", ""])
    clock = iter(range(100))

    def look() -> str:
        answer = next(said)
        if isinstance(answer, TimeoutError):
            raise answer
        return answer

    leave.wait(look, 0, 60, lambda: float(next(clock)), lambda seconds: None)
    assert len(list(said)) == 1, "idle for two seconds after it stood still, and not before"
