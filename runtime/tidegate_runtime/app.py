"""The router process: builds its parts, runs them, and ends them in order."""

import asyncio
import contextlib
import gc
import os
import resource
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx
import structlog
import uvicorn
import uvloop

from tidegate_billing.process import KEEP_ALIVE_SECONDS, end_with_parent, log_to_stderr
from tidegate_billing.settings import PREFIX, SettingError
from tidegate_runtime import account, static
from tidegate_runtime import settings as settings_module
from tidegate_runtime.follow import Links
from tidegate_runtime.front import Front
from tidegate_runtime.gate import Gate
from tidegate_runtime.journal import Journal, JournalBusy
from tidegate_runtime.meter import Meter
from tidegate_runtime.ops import Ops, Server
from tidegate_runtime.probe import Prober, believe
from tidegate_runtime.settings import Settings
from tidegate_runtime.slots import Slots
from tidegate_runtime.tenants import Tenants
from tidegate_runtime.till import Till

log = structlog.get_logger()

BACKLOG: Final = 4096
FLUSH_SECONDS: Final = 10.0
RENEWED_SECONDS: Final = 1.0
"""So long a router that starts from the picture on disk waits for a newer one. Whoever connects
meanwhile waits in the backlog."""
QUIET_SECONDS: Final = 3.0
"""For so long nobody may have come before a router that leaves closes its port."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run a router until it is told to stop. One clear line and 1 where it cannot start."""
    end_with_parent(environ)
    try:
        settings = settings_module.parse(argv, environ)
        log_to_stderr(settings.log_level)
        _more_files()
        uvloop.run(_run(settings))
    except (SettingError, static.StaticError) as exc:
        print(f"tidegate router: {exc}", file=sys.stderr)  # noqa: T201 - the one clear line
        return 1
    except (JournalBusy, OSError) as exc:
        print(f"tidegate router: {exc}", file=sys.stderr)  # noqa: T201 - the one clear line
        return 1
    return 0


async def _run(settings: Settings) -> None:
    async with contextlib.AsyncExitStack() as stack:
        folder = settings.journal_dir
        if settings.static is not None and folder == Path("journal"):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tidegate-")))
        listening = _listen("LISTEN_FD", settings.listen_fd, "PORT", settings.host, settings.port)
        ops_socket = _listen(
            "OPS_FD", settings.ops_fd, "OPS_PORT", settings.host, settings.ops_port
        )
        with _named("DATA"):
            settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _named("JOURNAL_DIR"):
            journal = Journal(folder, settings.segment_bytes)
        meter = Meter(journal, Slots(folder / "slots"), strict=settings.strict)
        stack.callback(meter.close)
        tenants = Tenants(settings.peppers, priced=settings.static is None)
        gate = Gate(settings.name, meter, tenants)
        gate.probe_started = Prober(gate).start if settings.probe else believe
        if settings.static is None:
            asking = account.opened(gate, settings.billing_url, settings.internal_token)
            await stack.enter_async_context(asking)
        await stack.enter_async_context(_tasks(settings, gate, ops_socket, stack))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: Front(gate, loop), sock=listening, backlog=BACKLOG
        )
        gc.collect()
        gc.freeze()  # what lives for ever is not looked at again
        log.info("router_ready", name=settings.name, port=listening.getsockname()[1])
        await _until_told()
        await _stop(gate, settings, server)


async def _stop(gate: Gate, settings: Settings, server: asyncio.Server) -> None:
    """Let what runs end, tell billing everything.

    In a cluster other routers and the engines go on, so what waits for an engine is served too, and
    so is what comes: nodes may hear late that we are leaving, and until nobody has come for a while
    a closed port would be a lost request. On one machine the engines end with us, and what waits
    is refused at once."""
    if settings.world_url == settings_module.KUBERNETES:
        gate.end()
        quiet = QUIET_SECONDS
    else:
        server.close()
        gate.stop()
        quiet = 0.0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(settings.drain_seconds):
            while not gate.quiet(quiet):
                await asyncio.sleep(0.02)
    server.close()
    gate.stop()
    for front in list(gate.fronts):
        front.close()
    if settings.static is None:
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                await gate.meter.flushed()
                if gate.till is not None:
                    await gate.till.part()
        except TimeoutError:
            log.warning("journal_not_flushed", unacked=gate.meter.journal.unacked)


@contextlib.asynccontextmanager
async def _tasks(
    settings: Settings, gate: Gate, ops_socket: socket.socket, stack: contextlib.AsyncExitStack
) -> AsyncIterator[None]:
    """Everything that runs beside the data path; a task that ends is a fault of ours."""
    headers = {"Authorization": f"Bearer {settings.internal_token}"}
    client = await stack.enter_async_context(
        httpx.AsyncClient(headers=headers, timeout=10.0, trust_env=False)
    )
    ops = Ops(gate, settings.internal_token)
    server = _server(ops)
    tasks: list[asyncio.Future[None]] = []
    serving: list[asyncio.Future[None]] = []

    def begin(*jobs: Coroutine[object, object, None]) -> None:
        for job in jobs:
            tasks.append(asyncio.ensure_future(job))
            tasks[-1].add_done_callback(_ended)

    try:
        if settings.static is not None:
            _fixed(settings.static, settings.peppers, gate)
            begin(gate.meter.keep())
        else:
            gate.till = gate.meter.teller = Till(gate, client, settings.billing_url)
            links = Links(gate, client, settings.data / f"picture-{settings.name}.json")
            known = links.restore()
            begin(
                gate.meter.ship(client, f"{settings.billing_url}/internal/usage"),
                links.follow_billing(settings.billing_url),
                _follow(links, settings),
                links.save(),
            )
            if known:
                await links.renewed(RENEWED_SECONDS)
        begin(server.serve(sockets=[ops_socket]))
        serving = tasks[-1:]
        begin(ops.spread(), _sweep(gate))
        yield
    finally:
        ops.close()
        server.should_exit = True
        if serving:
            await asyncio.wait(serving, timeout=2.0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _fixed(path: Path, peppers: Mapping[int, bytes], gate: Gate) -> None:
    """A router alone: its models and keys are a file's. Raises StaticError."""
    world, keys = static.read(path, peppers[max(peppers)])
    for key in keys:
        gate.tenants.add(key)
    gate.apply(world)


def _server(ops: Ops) -> Server:
    return Server(
        uvicorn.Config(
            ops.app(),
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
        )
    )


async def _follow(links: Links, settings: Settings) -> None:
    if settings.world_url == settings_module.KUBERNETES:
        await links.follow_kubernetes(settings.guard_key, settings.kubeconfig)
    else:
        await links.follow_world(f"{settings.world_url}/internal/world")


def _ended(task: "asyncio.Future[None]") -> None:
    """A standing task failed: better to end (and be restarted) than to serve without it."""
    if not task.cancelled() and task.exception() is not None:
        log.error("task_failed", exc_info=task.exception())
        os.kill(os.getpid(), signal.SIGTERM)


async def _sweep(gate: Gate) -> None:
    while True:
        await asyncio.sleep(1.0)
        gate.sweep()


async def _until_told() -> None:
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    await told.wait()


@contextlib.contextmanager
def _named(setting: str) -> Iterator[None]:
    """Whatever cannot be opened inside names the setting that chose it."""
    try:
        yield
    except JournalBusy:
        raise
    except OSError as exc:
        words = f"{exc.filename or 'it'}: {exc.strerror or exc}"
        raise SettingError(f"{words} (setting: {PREFIX}{setting})") from exc


def _listen(inherited: str, fd: int, setting: str, host: str, port: int) -> socket.socket:
    if fd >= 0:
        try:
            given = socket.socket(fileno=fd)
        except OSError as exc:
            raise SettingError(
                f"{PREFIX}{inherited}={fd} is no socket ({exc.strerror});"
                " allowed: an inherited listening socket"
            ) from exc
        given.setblocking(False)
        return given
    try:
        bound = socket.create_server((host, port), backlog=BACKLOG, reuse_port=False)
    except OSError as exc:
        code = exc.errno or 0
        why = os.strerror(code) if code > 0 else exc.strerror
        raise SettingError(
            f"cannot listen on {host}:{port}: {why} (setting: {PREFIX}{setting})"
        ) from exc
    bound.setblocking(False)
    return bound


def _more_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
