"""The sim engine as its callers meet it: real processes, real sockets, the official SDK."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from sim_process import Sim, command, environment, running

HI: list[Any] = [{"role": "user", "content": "say something to me"}]
QUICK = ("--ttft-ms", "1", "--tokens-per-second", "500")


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    with running(tmp_path_factory.mktemp("sim"), *QUICK, "--seed", "3") as found:
        yield found


def sdk(sim: Sim) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{sim.url}/v1", api_key=sim.guard, max_retries=0)


def said(length: int) -> str:
    return "".join(f" t{k}" for k in range(length))


def test_sdk_answers_whole(sim: Sim) -> None:
    with sdk(sim) as client:
        chat = client.chat.completions.create(model="m", messages=HI, max_completion_tokens=5, n=2)
        assert [choice.message.content for choice in chat.choices] == [said(5)] * 2
        assert {choice.finish_reason for choice in chat.choices} == {"length"}
        assert chat.usage is not None
        assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (4, 10)
        assert chat.usage.total_tokens == 14
        text = client.completions.create(model="m", prompt="one two")
        assert text.choices[0].text == said(16)
        assert [model.id for model in client.models.list()] == ["m"]


def test_sdk_streams_three_choices(sim: Sim) -> None:
    with sdk(sim) as client:
        stream = client.chat.completions.create(
            model="m",
            messages=HI,
            max_tokens=4,
            n=3,
            stream=True,
            stream_options={"include_usage": True},
            extra_headers={"X-Request-Id": "three"},
        )
        texts = ["", "", ""]
        chunks = list(stream)
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [said(4)] * 3
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].id == "chatcmpl-three"
    assert sim.truth()["three"] == {
        "attempt_id": "three",
        "prompt_tokens": 4,
        "generated_tokens": 12,
        "sent_tokens": 12,
        "outcome": "completed",
    }


async def test_async_sdk_streams_side_by_side(sim: Sim) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{sim.url}/v1", api_key=sim.guard, max_retries=0
    ) as client:

        async def one(length: int) -> str:
            stream = await client.completions.create(
                model="m", prompt="a", max_tokens=length, stream=True
            )
            return "".join([chunk.choices[0].text async for chunk in stream])

        lengths = [1, 7, 30, 30, 2]
        assert await asyncio.gather(*map(one, lengths)) == [said(n) for n in lengths]


def test_sdk_embeddings_in_both_encodings(sim: Sim) -> None:
    with sdk(sim) as client:
        packed = client.embeddings.create(model="m", input=["a b", "c"])
        plain = client.embeddings.create(model="m", input=["a b", "c"], encoding_format="float")
        tokens = client.embeddings.create(model="m", input=[[1, 2], [3]])
    assert [row.embedding for row in packed.data] == [row.embedding for row in plain.data]
    assert [len(row.embedding) for row in tokens.data] == [32, 32]
    assert packed.usage.prompt_tokens == tokens.usage.prompt_tokens == 3


def test_sdk_errors(sim: Sim) -> None:
    with sdk(sim) as client:
        with pytest.raises(openai.NotFoundError) as missing:
            client.chat.completions.create(model="other", messages=HI)
        with pytest.raises(openai.BadRequestError) as bad:
            client.chat.completions.create(model="m", messages=HI, max_tokens=0)
    assert missing.value.body["message"] == "The model `other` does not exist."  # type: ignore[index]
    assert bad.value.param == "max_tokens"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/models"),
        ("GET", "/metrics"),
        ("PUT", "/sim/faults"),
        ("GET", "/anything"),
        ("POST", "/health?x=1"),
    ],
)
@pytest.mark.parametrize("secret", [None, "", "Bearer", "Bearer wrong", "guard-of-a-test"])
def test_the_guard_stands_before_everything(
    sim: Sim, method: str, path: str, secret: str | None
) -> None:
    headers = {} if secret is None else {"Authorization": secret}
    answer = httpx.request(method, f"{sim.url}{path}", headers=headers, content=b"{}")
    assert answer.status_code == (405 if path.startswith("/health") else 401)


def test_health_is_open_and_paths_have_methods(sim: Sim) -> None:
    assert httpx.get(f"{sim.url}/health").status_code == 200
    with httpx.Client(base_url=sim.url, headers=sim.headers()) as client:
        assert client.get("/v1/responses").status_code == 404
        assert client.get("/v1/chat/completions").status_code == 405
        assert client.post("/metrics").status_code == 405
        assert client.get("/v1/models?x=1").status_code == 200
        refused = client.post("/v1/completions", content=b"{")
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == 400


def test_prefix_cache_is_reported_per_salt(sim: Sim) -> None:
    words = " ".join(f"w{n}" for n in range(40))

    def cached(salt: str) -> int:
        body = {"model": "m", "prompt": words, "max_tokens": 1, "cache_salt": salt}
        answer = httpx.post(f"{sim.url}/v1/completions", json=body, headers=sim.headers())
        found = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert isinstance(found, int)
        return found

    assert [cached("x"), cached("x"), cached("y")] == [0, 32, 0]


def test_counters_are_the_sum_of_the_truth(sim: Sim) -> None:
    body = {"model": "m", "messages": HI, "max_tokens": 9, "n": 2}
    with httpx.Client(headers=sim.headers("counted")) as client:
        client.post(f"{sim.url}/v1/chat/completions", json=body).raise_for_status()
    truth, metrics = sim.truth().values(), sim.metrics()
    assert metrics["vllm:generation_tokens_total"] == sum(t["generated_tokens"] for t in truth)
    assert metrics["vllm:prompt_tokens_total"] == sum(t["prompt_tokens"] for t in truth)
    assert metrics["vllm:num_requests_running"] == 0
    assert metrics["vllm:kv_cache_usage_perc"] == 0


def raw(sim: Sim, data: bytes) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", sim.port), timeout=20)
    peer.sendall(data)
    return peer


def head(sim: Sim, line: str, length: int, *more: str) -> bytes:
    lines = [f"{line} HTTP/1.1", "host: x", f"authorization: Bearer {sim.guard}"]
    return "\r\n".join([*lines, f"content-length: {length}", *more, "", ""]).encode()


def test_requests_of_a_connection_are_answered_in_order(sim: Sim) -> None:
    body = json.dumps({"model": "m", "prompt": "a", "max_tokens": 3, "stream": True}).encode()
    one = head(sim, "POST /v1/completions", len(body)) + body
    last = head(sim, "GET /v1/models", 0, "connection: close")
    with raw(sim, one + one + last) as peer, peer.makefile("rb") as file:
        answer = file.read()
    assert answer.count(b"data: [DONE]") == 2
    assert answer.index(b"max_model_len") > answer.rindex(b"[DONE]")


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"nonsense\r\n\r\n", b"400"), (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", b"400")],
)
def test_what_is_not_http_is_refused(sim: Sim, data: bytes, status: bytes) -> None:
    with raw(sim, data) as peer, peer.makefile("rb") as file:
        assert file.read().startswith(b"HTTP/1.1 " + status)


def test_a_body_may_wait_for_100_continue(sim: Sim) -> None:
    body = json.dumps({"model": "m", "prompt": "a"}).encode()
    more = ("expect: 100-continue", "connection: close")
    with raw(sim, head(sim, "POST /v1/completions", len(body), *more)) as peer:
        assert peer.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(body)
        with peer.makefile("rb") as file:
            assert file.read().startswith(b"HTTP/1.1 200")


def cpu_ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_the_start_refuses_connections_and_names_its_phases(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = ["--port", str(port), "--model", "m", "--start-seconds", "0.5"]
    with subprocess.Popen(
        command(*flags), stdout=subprocess.PIPE, text=True, env=environment()
    ) as process:
        assert process.stdout is not None
        lines = []
        for text in process.stdout:
            lines.append(json.loads(text))
            if lines[-1]["event"] == "ready":
                break
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
        assert httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200
        before = cpu_ticks(process.pid)
        time.sleep(0.3)
        assert cpu_ticks(process.pid) - before <= 1, "an idle engine takes no CPU"
        process.terminate()
        assert process.wait(10) == 0
    assert [line.get("phase") for line in lines] == ["importing", "loading", "warming", None]
    assert lines[-1]["at"] - lines[0]["at"] >= 0.5
    assert lines[-1]["port"] == port


def test_sigterm_ends_a_start(tmp_path: Path) -> None:
    flags = ["--port", "0", "--start-seconds", "600"]
    with subprocess.Popen(command(*flags), stdout=subprocess.PIPE, env=environment()) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        assert process.wait(10) == 0


@pytest.mark.parametrize(
    ("flags", "status", "words"),
    [
        (["--port", "0", "--fail", "die-at-start"], 1, "out of memory"),
        (["--port", "0", "--nonsense"], 2, "--nonsense"),
        (["--port", "0", "--truth", "/nonexistent/t"], 1, "--truth"),
        (["--port", "0", "--host", "192.0.2.1"], 1, "--host"),
    ],
)
def test_a_start_that_fails_says_why(flags: list[str], status: int, words: str) -> None:
    done = subprocess.run(
        command(*flags), capture_output=True, text=True, env=environment(), timeout=20, check=False
    )
    assert done.returncode == status
    assert words in done.stderr


def test_without_guard_on_loopback(tmp_path: Path) -> None:
    with running(tmp_path, *QUICK, "--no-guard", guard="") as sim:
        assert httpx.get(f"{sim.url}/v1/models").status_code == 200


def test_without_a_secret_on_loopback_it_warns_once() -> None:
    flags = ("--port", "0", "--model", "m", "--alias", "other")
    with subprocess.Popen(
        command(*flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(""),
    ) as process:
        try:
            assert process.stdout is not None
            port = next(x["port"] for x in map(json.loads, process.stdout) if x["event"] == "ready")
            base = f"http://127.0.0.1:{port}/v1"
            assert [x["id"] for x in httpx.get(f"{base}/models").json()["data"]] == ["m", "other"]
            for name in ("m", "other"):
                body = {"model": name, "messages": HI, "max_tokens": 1}
                assert httpx.post(f"{base}/chat/completions", json=body).json()["model"] == name
        finally:
            process.terminate()
        assert process.stderr is not None
        (line,) = process.stderr.read().splitlines()
    assert "warning" in line
    assert "ENGINE_GUARD_SECRET" in line


def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    script = (
        "import os, subprocess, sys\n"
        "env = {**os.environ, '_TIDEGATE_PARENT': str(os.getpid())}\n"
        "child = subprocess.Popen(sys.argv[1:], env=env, stdout=subprocess.PIPE)\n"
        "[child.stdout.readline() for _ in range(4)]\n"
        "print(child.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [command()[0], "-c", script, *command("--port", "0")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment(),
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
        parent.wait()
    deadline = time.monotonic() + 10
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not alive(pid)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HI, "stream": True, **more}


def test_drain_finishes_answers_and_refuses_new_ones(tmp_path: Path) -> None:
    with (
        running(tmp_path, "--tokens-per-second", "50") as sim,
        httpx.Client(headers=sim.headers("drained"), timeout=20) as client,
        httpx.Client(headers=sim.headers("late"), timeout=20) as kept,
    ):
        kept.get(f"{sim.url}/v1/models").raise_for_status()
        url = f"{sim.url}/v1/chat/completions"
        with client.stream("POST", url, json=chat(max_tokens=40)) as answer:
            lines = answer.iter_lines()
            next(lines)
            sim.process.send_signal(signal.SIGTERM)
            status = 200
            while status == 200:
                status = kept.post(url, json=chat(max_tokens=1)).status_code
            assert status == 500
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{sim.url}/health")
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert sim.process.wait(20) == 0
        assert sim.truth()["drained"]["outcome"] == "completed"
        assert sim.truth()["late"]["outcome"] == "error"


@pytest.mark.parametrize("times", [1, 2])
def test_drain_ends_at_its_timeout_or_when_told_twice(tmp_path: Path, times: int) -> None:
    timeout = "0.2" if times == 1 else "600"
    with (
        running(tmp_path, "--shutdown-timeout", timeout) as sim,
        httpx.Client(headers=sim.headers("cut"), timeout=20) as client,
        client.stream(
            "POST", f"{sim.url}/v1/chat/completions", json=chat(max_tokens=9999)
        ) as answer,
    ):
        lines = answer.iter_lines()
        next(lines)
        sim.process.send_signal(signal.SIGTERM)
        if times == 2:
            while _listening(sim.port):
                time.sleep(0.01)
            sim.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            list(lines)
        assert sim.process.wait(10) == 0
        assert sim.truth()["cut"]["outcome"] == "aborted"


def _listening(port: int) -> bool:
    with socket.socket() as peer:
        return peer.connect_ex(("127.0.0.1", port)) == 0
