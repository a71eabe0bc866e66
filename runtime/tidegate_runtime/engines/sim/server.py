"""The life of the process: start, serve, drain.

The port is bound at once and listens only when the start is over, so that until then connections
are refused, as vLLM's are. Standard output carries one JSON line for each phase and for `ready`.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence

import uvloop

from tidegate_runtime.engines.sim import settings
from tidegate_runtime.engines.sim.engine import Engine
from tidegate_runtime.engines.sim.protocol import Connection, Opened
from tidegate_runtime.engines.sim.truth import Truth

PHASES = (("importing", 0.2), ("loading", 0.6), ("warming", 0.2))
"""The phases of a start with their shares of its seconds."""

FLUSH_SECONDS = 1.0
BACKLOG = 4096
TRUTH_VARIABLE = "SIM_TRUTH"
"""The truth file where no `--truth` names one: in a cluster a profile's `env` sets it."""
PR_SET_PDEATHSIG = 1
UNGUARDED = "sim: warning: ENGINE_GUARD_SECRET is not set, so everybody on this machine may call\n"
LAST_WORDS = """\
INFO [gpu_model_runner.py] Starting to load model...
ERROR [core.py] EngineCore failed to start.
ERROR [core.py] torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.
RuntimeError: Engine core initialization failed. See root cause above.
"""


def run(argv: Sequence[str]) -> int:
    """Parse, bind, serve; returns the exit status."""
    _die_with_parent(os.environ.get("_TIDEGATE_PARENT", ""))
    if any(flag in {"-h", "--help"} for flag in argv):
        sys.stdout.write(settings.usage())
        return 0
    try:
        chosen = settings.options(argv)
        guard = settings.guard_secret(chosen, os.environ.get("ENGINE_GUARD_SECRET", ""))
    except ValueError as error:
        sys.stderr.write(f"sim: {error}\n")
        return 2
    if not guard and not chosen.no_guard:
        sys.stderr.write(UNGUARDED)
    try:
        listener = _bound(chosen.host, chosen.port)
    except OSError as error:
        sys.stderr.write(f"sim: --host {chosen.host} --port {chosen.port}: {error.strerror}\n")
        return 1
    kept = chosen.truth or os.environ.get(TRUTH_VARIABLE, "")
    try:
        truth = Truth(kept)
    except OSError as error:
        sys.stderr.write(f"sim: --truth {kept}: {error.strerror}\n")
        return 1
    return uvloop.run(_serve(chosen, guard, listener, truth))


async def _serve(
    chosen: settings.Options, guard: bytes, listener: socket.socket, truth: Truth
) -> int:
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()

    def told() -> None:
        (hurry if stop.is_set() else stop).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told)
    status = await _start(chosen, stop)
    if status is not None:
        listener.close()
        return status
    # Every page is written to: what was only asked for would be nobody's.
    taken = bytearray(b"\1") * (chosen.memory_mib << 20)
    engine = Engine(chosen, truth, loop)
    opened = Opened()
    server = await loop.create_server(
        lambda: Connection(engine, guard, opened), sock=listener, backlog=BACKLOG
    )
    _say("ready", port=listener.getsockname()[1])
    await stop.wait()
    server.close()
    await _drain(engine, opened, hurry, chosen.shutdown_timeout)
    del taken
    return 0


async def _start(chosen: settings.Options, stop: asyncio.Event) -> int | None:
    """Let the start take its time; an exit status where it ends in something else than service."""
    dying = any(fault.kind == "die-at-start" for fault in chosen.fail)
    for phase, share in PHASES:
        _say("phase", phase=phase)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), share * chosen.start_seconds)
        if stop.is_set():
            return 0
        if dying and phase == "loading":
            sys.stderr.write(LAST_WORDS)
            return 1
    return None


async def _drain(engine: Engine, opened: Opened, hurry: asyncio.Event, seconds: float) -> None:
    """Let running answers end for at most `seconds`, or until told again; abort the rest."""
    engine.drain()
    ends = [asyncio.ensure_future(engine.drained.wait()), asyncio.ensure_future(hurry.wait())]
    await asyncio.wait(ends, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for end in ends:
        end.cancel()
    engine.abort_all()
    for connection in list(opened.members):
        connection.close()
    # Closing flushes what was written; a client that does not read cannot keep the process.
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(opened.none.wait(), FLUSH_SECONDS)
    for connection in list(opened.members):
        connection.reset()


def _bound(host: str, port: int) -> socket.socket:
    """A socket bound and not yet listening. Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setblocking(False)
    try:
        listener.bind(address)
    except OSError:
        listener.close()
        raise
    return listener


def _say(event: str, **more: str | int) -> None:
    """One line for the supervisor; a supervisor that is gone is no reason to fail."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(json.dumps({"event": event, "at": time.time(), **more}) + "\n")
        sys.stdout.flush()


def _die_with_parent(parent: str) -> None:
    """Where a supervisor asks for it, be told to stop when it dies, however it dies."""
    if not parent:
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if parent.isdigit() and int(parent) > 1 and os.getppid() == 1:
        # It died between starting us and the line above.
        sys.exit(0)
