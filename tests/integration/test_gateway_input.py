"""What strangers, broken clients and broken engines do to a router: clear answers, no stuck slot."""

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import running
import sim_process

KEY = "sk-static"


class Router:
    """A router alone over sims."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, ops: int, log: Path) -> None:
        self.process, self.port, self.ops, self.log = process, port, ops, log
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False,
            headers={"authorization": f"Bearer {KEY}"},
        )  # fmt: skip

    def metric(self, name: str) -> float:
        text = httpx.get(f"http://127.0.0.1:{self.ops}/metrics", trust_env=False).text
        return sum(float(x.rsplit(" ", 1)[1]) for x in text.splitlines() if x.startswith(name))

    def quiet(self) -> None:
        """Nothing runs and nothing waits any more."""
        for name in ("tidegate_in_flight", "tidegate_held", "tidegate_journal_unacked"):
            running.wait_for(lambda name=name: self.metric(name) == 0, f"{name} 0")

    def raw(self, data: bytes, *, finish: bool = False) -> bytes:
        """Send bytes, read until the router closes (or the answer is there, with keep-alive)."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as s:
            s.sendall(data)
            got = b""
            while piece := s.recv(65536):
                got += piece
                if finish and b"\r\n\r\n" in got:
                    break
            return got


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def router(folder: Path, endpoints: list[str], *flags: str) -> Iterator[Router]:
    config = folder / "static.yaml"
    models = [{"name": "sim", "endpoints": endpoints}]
    config.write_text(json.dumps({"models": models, "keys": [{"key": KEY, "tenant": "t"}]}))
    port, ops, log = free_port(), free_port(), folder / "router.log"
    command = [
        sys.executable, "-Im", "tidegate_runtime", "--static", str(config), "--port", str(port),
        "--ops-port", str(ops), "--data", str(folder), "--journal-dir", str(folder / "journal"), *flags,
    ]  # fmt: skip
    with log.open("ab") as out:
        process = subprocess.Popen(command, stderr=out)
    one = Router(process, port, ops, log)
    try:
        running.wait_for(lambda: "router_ready" in log.read_text(), "router ready")
        yield one
    finally:
        one.client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(40) == 0
        assert "Traceback" not in log.read_text()


@pytest.fixture
def sim(tmp_path: Path) -> Iterator[sim_process.Sim]:
    with sim_process.running(
        tmp_path,
        "--no-guard",
        "--ttft-ms",
        "1",
        "--tokens-per-second",
        "500",
        model="sim",
        guard="",
    ) as one:
        yield one


def body(**fields: object) -> dict[str, object]:
    return {"model": "sim", "messages": [{"role": "user", "content": "a b c"}], **fields}


def test_errors_have_openai_shape_and_their_own_status(
    tmp_path: Path, sim: sim_process.Sim
) -> None:
    with router(tmp_path, [sim.url]) as one:
        post = one.client.post
        chat = "/v1/chat/completions"
        cases = [
            (post(chat, content=b"{"), 400, "invalid_request"),
            (post(chat, content=b"\x00" * 100), 400, "invalid_request"),
            (post(chat, json=body(model=7)), 400, "invalid_request"),
            (post(chat, json=body(messages="x")), 400, "invalid_request"),
            (post(chat, json=body(model="nobody")), 404, "model_not_found"),
            (post("/v1/embeddings", json={"model": "sim", "input": "x"}), 400, "task_not_served"),
            (post("/v1/nothing", json={}), 404, "not_found"),
            (one.client.get(chat), 405, "method_not_allowed"),
            (one.client.get("/v1/organization/costs?start_time=0"), 404, "not_found"),
            (
                post(chat, json=body(), headers={"authorization": "Bearer sk-wrong"}),
                401,
                "invalid_api_key",
            ),
            (post(chat, json=body(), headers={"authorization": ""}), 401, "invalid_api_key"),
            (post(chat, content=b"x" * (33 * 1024 * 1024)), 413, "body_too_large"),
        ]
        for answer, status, code in cases:
            assert answer.status_code == status, answer.text
            assert answer.json()["error"]["code"] == code
            assert answer.headers["x-request-id"].startswith("req-")
        one.quiet()
        log = one.log.read_text()
        assert '"code": "body_too_large"' in log
        assert KEY not in log


def test_raw_nonsense(tmp_path: Path, sim: sim_process.Sim) -> None:
    head = (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
        + KEY.encode()
        + b"\r\n"
    )
    with router(tmp_path, [sim.url]) as one:
        cases = [
            (b"\x16\x03\x01\x02\x00\x01\x00", 400),
            (b"GET / SPDY/9\r\n\r\n", 400),
            (head + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
            (head + b"content-length: -1\r\n\r\n", 400),
            (head + b"content-length: 99999999999\r\n\r\n", 413),
            (head + b"transfer-encoding: chunked\r\n\r\nzz\r\n", 400),
            (b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
            (
                head + b"".join(b"x-%d: %b\r\n" % (i, b"y" * 100) for i in range(2000)) + b"\r\n",
                431,
            ),
            (head + b"x: " + b"y" * 300_000, 431),
        ]
        for data, status in cases:
            got = one.raw(data)
            assert re.match(rb"HTTP/1\.1 %d " % status, got), (data[:80], got[:200])
        with socket.create_connection(("127.0.0.1", one.port)) as s:  # half a request, then gone
            s.sendall(head + b"content-length: 100\r\n\r\nhalf")
        assert one.client.post("/v1/chat/completions", json=body(max_tokens=2)).status_code == 200
        one.quiet()


def test_pipelining_expect_and_http_1_0(tmp_path: Path, sim: sim_process.Sim) -> None:
    data = json.dumps(body(max_tokens=2)).encode()
    head = (
        b"POST /v1/chat/completions HTTP/%b\r\nhost: x\r\nauthorization: bearer "
        + KEY.encode()
        + b"\r\ncontent-length: %d\r\n%b\r\n"
    )
    one_request = head % (b"1.1", len(data), b"") + data
    last = head % (b"1.1", len(data), b"connection: close\r\n") + data
    stream = json.dumps(body(max_tokens=2, stream=True)).encode()
    with router(tmp_path, [sim.url]) as one:
        got = one.raw(one_request * 3 + last)
        assert got.count(b"HTTP/1.1 200 OK") == 4
        assert got.count(b'" t0 t1"') == 4
        with socket.create_connection(("127.0.0.1", one.port)) as s:
            s.sendall(head % (b"1.1", len(data), b"expect: 100-continue\r\n"))
            assert s.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            s.sendall(data)
            assert b"200 OK" in s.recv(65536)
        old = one.raw(head % (b"1.0", len(stream), b"") + stream)
        assert b"transfer-encoding" not in old
        assert old.endswith(b"data: [DONE]\n\n")
        one.quiet()


def test_upgrade_is_ignored_connect_refused_head_without_body(
    tmp_path: Path, sim: sim_process.Sim
) -> None:
    data = json.dumps(body(max_tokens=2)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + KEY.encode()
    offer = b"\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    length = b"content-length: %d\r\n\r\n" % len(data)
    with router(tmp_path, [sim.url]) as one:
        got = one.raw(
            head + offer + length + data + head + b"\r\nconnection: close\r\n" + length + data
        )
        assert got.count(b"HTTP/1.1 200 OK") == 2
        assert got.count(b"HTTP/1.1") == 2
        refused = one.raw(b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 400 ")
        assert refused.count(b"HTTP/1.1") == 1
        asked = b"HEAD /v1/models HTTP/1.1\r\nauthorization: Bearer " + KEY.encode()
        answer = one.raw(asked + b"\r\nconnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 405 ")
        assert answer.endswith(b"\r\n\r\n")
        one.quiet()


def test_a_stranger_s_large_body_is_not_read(tmp_path: Path, sim: sim_process.Sim) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer sk-nobody\r\n"
    with router(tmp_path, [sim.url]) as one:
        got = one.raw(head + b"content-length: 30000000\r\n\r\n" + b"x" * 300_000)
        assert got.startswith(b"HTTP/1.1 401 ")


def test_slow_and_deaf_clients(tmp_path: Path, sim: sim_process.Sim) -> None:
    """One byte at a time is answered when whole; a client that never reads holds no slot for good."""
    data = json.dumps(body(max_tokens=3)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer " + KEY.encode() + b"\r\n"
    with router(tmp_path, [sim.url]) as one:
        with socket.create_connection(("127.0.0.1", one.port)) as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for i in head + b"content-length: %d\r\n\r\n" % len(data) + data:
                s.send(bytes([i]))
            assert b"200 OK" in s.recv(65536)
        deaf = socket.create_connection(("127.0.0.1", one.port))
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        many = json.dumps(body(max_tokens=20_000, stream=True)).encode()
        deaf.sendall(head + b"content-length: %d\r\n\r\n" % len(many) + many)
        running.wait_for(lambda: one.metric("tidegate_in_flight") == 1, "the deaf one runs")
        assert one.client.post("/v1/chat/completions", content=data).status_code == 200
        deaf.close()
        one.quiet()


@pytest.mark.parametrize(
    "fault", ["refuse", "crash@3", "hang@3", "http500", "malformed@3", "no-usage"]
)
def test_engine_faults_reach_the_client_as_what_they_are(tmp_path: Path, fault: str) -> None:
    flags = ("--no-guard", "--ttft-ms", "1", "--tokens-per-second", "500", "--fail", fault)
    with (
        sim_process.running(tmp_path, *flags, model="sim", guard="") as sim,
        router(tmp_path, [sim.url]) as one,
    ):
        if fault.startswith("hang"):
            with one.client.stream(
                "POST", "/v1/chat/completions", json=body(stream=True, max_tokens=9)
            ) as answer:
                lines = answer.iter_lines()
                while "t2" not in next(lines):
                    pass
            one.quiet()
            return
        stream = one.client.post("/v1/chat/completions", json=body(stream=True, max_tokens=9))
        if fault in {"refuse", "http500"}:
            assert stream.status_code in {500, 502}
            assert stream.json()["error"]["type"] in {
                "engine_error",
                "server_error",
                "InternalServerError",
            }
        elif fault == "no-usage":
            assert stream.text.endswith("data: [DONE]\n\n")
        else:
            assert stream.status_code == 200
            assert "[DONE]" not in stream.text
            events = [e for e in stream.text.split("\n\n") if e]
            assert (
                json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "engine_broke_off"
            )
            assert stream.text.count('"content":" t') == 3
        one.quiet()


def test_a_dead_engine_is_passed_over(tmp_path: Path, sim: sim_process.Sim) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    with router(tmp_path, [dead, sim.url]) as one:
        for _ in range(5):
            assert (
                one.client.post("/v1/chat/completions", json=body(max_tokens=1)).status_code == 200
            )
        one.quiet()


def test_a_full_journal_serves_nothing(tmp_path: Path, sim: sim_process.Sim) -> None:
    """A disk without room: 503 and the reason, and service again when there is room."""
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(small)], check=True)
    try:
        with router(tmp_path, [sim.url], "--journal-dir", str(small / "journal")) as one:
            running.wait_for(
                lambda: (
                    one.client.post("/v1/chat/completions", json=body(max_tokens=1)).status_code
                    == 200
                ),
                "served",
            )
            ballast = small / "ballast"
            with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                while file.write(bytes(65536)):
                    pass

            def refused() -> bool:
                answer = one.client.post("/v1/chat/completions", json=body(max_tokens=1))
                return (
                    answer.status_code == 503
                    and answer.json()["error"]["code"] == "metering_unavailable"
                )

            running.wait_for(refused, "refused")
            ballast.unlink()
            running.wait_for(
                lambda: (
                    one.client.post("/v1/chat/completions", json=body(max_tokens=1)).status_code
                    == 200
                ),
                "served again",
            )
            one.quiet()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("durability", ["strict", "relaxed"])
def test_durability(tmp_path: Path, sim: sim_process.Sim, durability: str) -> None:
    async def many(one: Router) -> None:
        headers = {"authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{one.port}", headers=headers, trust_env=False
        ) as client:
            answers = await asyncio.gather(
                *(client.post("/v1/chat/completions", json=body(max_tokens=2)) for _ in range(50))
            )
        assert {a.status_code for a in answers} == {200}

    with router(tmp_path, [sim.url], "--durability", durability) as one:
        asyncio.run(many(one))
        one.quiet()


def test_refuses_to_start(tmp_path: Path) -> None:
    def start(*flags: str, **env: str) -> str:
        done = subprocess.run(
            [sys.executable, "-Im", "tidegate_runtime", *flags],
            capture_output=True,
            text=True,
            env=env,
            timeout=20,
            check=False,
        )
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1
        return done.stderr

    config = tmp_path / "s.yaml"
    config.write_text("models: []\nkeys: []\n")
    assert "TIDEGATE_PROT" in start("--static", str(config), TIDEGATE_PROT="1")
    assert "TIDEGATE_PORT" in start("--static", str(config), "--port", "99999")
    assert "TIDEGATE_DURABILITY" in start("--static", str(config), "--durability", "most")
    assert "TIDEGATE_BILLING_URL" in start()
    assert "nope.yaml" in start("--static", str(tmp_path / "nope.yaml"))
    (tmp_path / "latin.yaml").write_bytes(b"models: \xe4\n")
    assert "latin.yaml: not UTF-8" in start("--static", str(tmp_path / "latin.yaml"), "--port", "0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in start("--static", str(config), "--port", port, "--data", str(tmp_path))
