"""The process around the routes: settings, sockets, two servers, and an end that loses nothing.

The management port and the operations port are two sockets with an application each, so that
tenants' networks can be kept from the second. Sockets may be inherited: a supervisor that holds
them can restart this process without a moment in which a connection is refused.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import uvicorn
from sqlalchemy.exc import SQLAlchemyError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from tidegate_billing import api, destinations, keys, ledger, metrics, service, settings, watch
from tidegate_billing.database import DatabaseDown, DatabaseError, connect, parse
from tidegate_billing.process import KEEP_ALIVE_SECONDS
from tidegate_billing.service import Service, log
from tidegate_billing.settings import SettingError
from tidegate_billing.snapshot import Snapshots
from tidegate_billing.webhooks import worker

GRACE_SECONDS = 5
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class Settings:
    """Billing's settings. A file descriptor of -1: bind the port instead."""

    host: str
    port: int
    ops_port: int
    listen_fd: int
    ops_fd: int
    database_url: str
    operator_url: str
    admin_token: str
    internal_token: str
    peppers: dict[int, bytes]
    log_level: str
    destinations: destinations.Policy


def database_url(values: Mapping[str, str]) -> str:
    """The database's URL, which may hold a secret. Raises SettingError."""
    data = settings.text(values, "DATA", "")
    url = settings.text(values, "DATABASE_URL", f"sqlite:///{data}/billing.db" if data else "")
    try:
        parse(settings.required({"DATABASE_URL": url}, "DATABASE_URL"))
    except DatabaseError as error:
        raise SettingError(f"{settings.PREFIX}DATABASE_URL: {error}") from error
    return url


def configure(values: Mapping[str, str]) -> Settings:
    """Settings from what `settings.read` found. Raises SettingError."""
    try:
        peppers = keys.parse_peppers(settings.required(values, "KEY_PEPPER"))
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(f"{settings.PREFIX}KEY_PEPPER: {error}") from error
    return Settings(
        host=settings.text(values, "HOST", "127.0.0.1"),
        port=settings.port(values, "ADMIN_PORT", settings.port(values, "PORT", 8081)),
        ops_port=settings.port(values, "OPS_PORT", 9091),
        listen_fd=settings.integer(values, "LISTEN_FD", -1, 0, 1 << 20),
        ops_fd=settings.integer(values, "OPS_FD", -1, 0, 1 << 20),
        database_url=database_url(values),
        operator_url=settings.text(values, "OPERATOR_URL", ""),
        admin_token=settings.required(values, "ADMIN_TOKEN"),
        internal_token=settings.required(values, "INTERNAL_TOKEN"),
        peppers=peppers,
        log_level=settings.choice(values, "LOG_LEVEL", "info", LOG_LEVELS),
        destinations=destinations.POLICIES[
            settings.choice(values, "WEBHOOK_DESTINATIONS", "public", destinations.POLICIES)
        ],
    )


def listen(name: str, host: str, port: int, descriptor: int) -> socket.socket:
    """A listening socket: the inherited one, else bound anew. Raises SettingError."""
    if descriptor >= 0:
        try:
            inherited = socket.socket(fileno=descriptor)
        except OSError as error:
            raise SettingError(
                f"{settings.PREFIX}{name}_FD={descriptor} is no socket ({error.strerror});"
                " allowed: an inherited listening socket"
            ) from error
        inherited.listen(1024)
        return inherited
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen(1024)
    except OSError as error:
        bound.close()
        setting = "ADMIN_PORT" if name == "LISTEN" else "OPS_PORT"
        raise SettingError(
            f"can't listen on {host}:{port}: {error.strerror or error}"
            f" (setting: {settings.PREFIX}{setting})"
        ) from error
    return bound


class Server(uvicorn.Server):
    """uvicorn without its ten wake-ups a second, and without its own signal handlers."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=GRACE_SECONDS,
            )
        )
        self.stopping = asyncio.Event()

    async def main_loop(self) -> None:
        """Wait until told to stop."""
        await self.stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the process."""
        yield


def operations(billing: Service) -> Starlette:
    """The application of the operations port."""

    async def livez(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        try:
            await billing.database.read(ledger.unshipped)
        except (SQLAlchemyError, DatabaseDown) as error:
            return PlainTextResponse(f"the database fails: {type(error).__name__}\n", 503)
        return PlainTextResponse("ok\n")

    async def show_metrics(_request: Request) -> Response:
        # What had drifted may have been a settlement on its way: look again before saying so.
        await service.rebalance(billing, billing.metrics.drifting())
        parked = await billing.database.read(ledger.parked)
        unshipped = await billing.database.read(ledger.unshipped)
        text = metrics.render(
            billing.metrics,
            parked=parked,
            unshipped=unshipped,
            subscribers=len(billing.snapshots.subscribers),
        )
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", show_metrics),
        ]
    )


async def serve(chosen: Settings, management: socket.socket, ops: socket.socket) -> None:
    """Serve on both sockets until SIGTERM or SIGINT; the database must be at HEAD."""
    billing = Service(
        database=connect(chosen.database_url),
        # Milliseconds: a version of this life is past all versions of the last one.
        snapshots=Snapshots(version=service.now() // 1000),
        admin_token=chosen.admin_token,
        internal_token=chosen.internal_token,
        peppers=chosen.peppers,
        operator_url=chosen.operator_url,
        destinations=chosen.destinations,
    )
    await service.load(billing)
    servers = [Server(api.build(billing)), Server(operations(billing))]

    def stop() -> None:
        log.info("stopping")
        billing.snapshots.close()
        for server in servers:
            server.stopping.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    log.info(
        "serving", port=_port(management), ops_port=_port(ops), pid=os.getpid(), host=chosen.host
    )
    beside = [
        asyncio.ensure_future(work)
        for work in (
            service.expire_keys(billing),
            watch.run(billing),
            worker.run(billing),
            billing.lender.run(),
        )
    ]
    try:
        await asyncio.gather(
            servers[0].serve(sockets=[management]), servers[1].serve(sockets=[ops])
        )
    finally:
        for task in beside:
            task.cancel()
        await billing.database.close()
    log.info("stopped")


def _port(bound: socket.socket) -> int:
    name = bound.getsockname()
    return cast("int", name[1]) if isinstance(name, tuple) else 0
