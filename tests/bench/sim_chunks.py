"""How many SSE chunks a second the sim engine makes on one core, as JSON on standard output.

Two cases, both with continuous usage and the truth file on: many streams at a rate (does it keep
up?) and without a rate (how far does it go?). The server has one core to itself, this reader
another; the reader is raw sockets that count `data: `, so that it is never the limit.

    python tests/bench/sim_chunks.py [--streams 512] [--rate 50] [--seconds 5] [--directory DIR]
"""

import argparse
import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

MARK = b"data: "
GUARD = "bench"


def rss_mb(pid: int, field: str = "VmRSS") -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_seconds(pid: int) -> float:
    """How long it was ready to run and another process had its core."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def start(directory: Path, rate: float, core: int) -> tuple[subprocess.Popen[str], int, float]:
    """The process, its port and the seconds from exec to `ready`."""
    command = [sys.executable, "-Im", "tidegate_runtime.engines.sim", "--port", "0", "--model", "m"]
    command += ["--tokens-per-second", str(rate), "--truth", str(directory / "truth.ndjson")]
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "ENGINE_GUARD_SECRET": GUARD},
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),  # noqa: PLW1509 - one thread here
    )
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "ready":
            return process, event["port"], time.monotonic() - begun
    raise RuntimeError(f"the sim ended with {process.wait()}")


def request(number: int, tokens: int) -> bytes:
    body = json.dumps(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "count for me please"}],
            "max_tokens": tokens,
            "stream": True,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        }
    ).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {GUARD}\r\n"
        f"x-request-id: bench-{number}\r\nconnection: close\r\n"
        f"content-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def load(port: int, streams: int, tokens: int, pid: int) -> dict[str, Any]:
    """Run all streams to their end; counts token chunks only."""
    chosen = selectors.EpollSelector()
    begun, cpu, waited = time.monotonic(), cpu_seconds(pid), wait_seconds(pid)
    for number in range(streams):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.sendall(request(number, tokens))
        peer.setblocking(False)
        chosen.register(peer, selectors.EVENT_READ, [b"", 0])
    ramp = time.monotonic() - begun
    open_streams, chunks, cut = streams, 0, 0
    while open_streams:
        for key, _ in chosen.select():
            reader, state = key.fileobj, key.data
            assert isinstance(reader, socket.socket)
            data = reader.recv(1 << 18)
            # A mark may lie across two reads: count it with the tail of the read before.
            joined = state[0] + data
            state[1] += joined.count(MARK)
            state[0] = joined[-len(MARK) + 1 :]
            if not data:
                # Besides the tokens: the role, the usage and [DONE].
                chunks += max(0, state[1] - 3)
                cut += state[1] != tokens + 3
                chosen.unregister(reader)
                reader.close()
                open_streams -= 1
    wall, used = time.monotonic() - begun, cpu_seconds(pid) - cpu
    return {
        "streams": streams,
        "tokens_each": tokens,
        "chunks": chunks,
        "streams_cut_short": cut,
        "seconds": round(wall, 3),
        "seconds_to_connect": round(ramp, 3),
        "chunks_per_second": round(chunks / wall),
        "server_cpu_seconds": round(used, 3),
        "server_waited_for_its_core_seconds": round(wait_seconds(pid) - waited, 3),
        "server_cpu_us_per_chunk": round(1e6 * used / chunks, 2),
        "chunks_per_cpu_second": round(chunks / used),
    }


def case(directory: Path, streams: int, rate: float, tokens: int, core: int) -> dict[str, Any]:
    directory.mkdir()
    process, port, started = start(directory, rate, core)
    try:
        idle = rss_mb(process.pid)
        found = load(port, streams, tokens, process.pid)
        found |= {"rate": rate, "start_seconds": round(started, 3)}
        found |= {"rss_mb_idle": round(idle, 1)}
        found |= {"rss_mb_peak": round(rss_mb(process.pid, "VmHWM"), 1)}
        cpu = cpu_seconds(process.pid)
        time.sleep(1)
        found["idle_cpu_seconds_in_one"] = round(cpu_seconds(process.pid) - cpu, 3)
        found["truth_mb"] = round((directory / "truth.ndjson").stat().st_size / 2**20, 1)
        return found
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--streams", type=int, default=512)
    parser.add_argument("--rate", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--unlimited-tokens", type=int, default=4000, help="per stream")
    parser.add_argument("--directory", default=None, help="where the truth is written")
    args = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[-1]})
    with tempfile.TemporaryDirectory(dir=args.directory) as name:
        base = Path(name)
        rated = case(
            base / "rated", args.streams, args.rate, int(args.rate * args.seconds), cores[0]
        )
        rated["offered_per_second"] = round(args.streams * args.rate)
        unlimited = case(base / "unlimited", args.streams, 0, args.unlimited_tokens, cores[0])
    print(json.dumps({"cores": len(cores), "rated": rated, "unlimited": unlimited}, indent=2))


if __name__ == "__main__":
    main()
