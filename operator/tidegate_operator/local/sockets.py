"""Listening sockets that outlive the parts that serve on them.

`up` binds and listens itself and hands descriptors down. While a part is away, connections wait
in the kernel's backlog instead of being refused, and a port once chosen is never lost to another.
"""

import random
import socket
from errno import EADDRNOTAVAIL
from pathlib import Path

BACKLOG = 1024
LOOPBACK = "127.0.0.1"
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")


class PortInUseError(Exception):
    """A port cannot be bound; the message names it and the setting that chose it."""


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A listening socket on `host:port` (0: any free port).

    Raises PortInUseError where the address is taken, forbidden or not ours.
    """
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = info[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise PortInUseError(
            f"cannot listen on {host!r}: {error.strerror} (setting: TIDEGATE_HOST)"
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        setting = "HOST" if error.errno == EADDRNOTAVAIL else setting
        raise PortInUseError(
            f"cannot listen on {host}:{port}: {error.strerror} (setting: TIDEGATE_{setting}; 0 = any free port)"
        ) from error
    bound.setblocking(False)
    return bound


def url(bound: socket.socket) -> str:
    """Where a client on this machine reaches the socket."""
    host, port = bound.getsockname()[:2]
    if host in {"0.0.0.0", "::"}:  # noqa: S104 - recognised, not bound
        host = LOOPBACK if bound.family == socket.AF_INET else "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def engine_port() -> int:
    """A port free just now, for an engine that binds it itself.

    Taken from below the kernel's ephemeral range: routers probe the port before the engine
    listens, and a connect to an unbound ephemeral port can by chance connect to itself.
    Raises PortInUseError when hundreds of tries found none.
    """
    low = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    for _ in range(500):
        port = random.randint(max(1024, low - 16384), low - 1)  # noqa: S311 - no secret
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise PortInUseError("no free port for an engine on 127.0.0.1")
