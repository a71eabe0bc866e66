"""Which parts there are, on which sockets, with which arguments. Only binds sockets and makes folders."""

import socket
import sys
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tidegate_operator.local import environment, leftovers, sockets
from tidegate_operator.local.datadir import Secrets
from tidegate_operator.local.options import UpOptions
from tidegate_operator.local.parts import PartSpec

LOOPBACK = sockets.LOOPBACK
ROUTER = (sys.executable, "-Im", "tidegate_runtime")
BILLING = (sys.executable, "-Im", "tidegate_billing")


class Ports(NamedTuple):
    """A part's two sockets."""

    serve: socket.socket
    ops: socket.socket


class Listeners(NamedTuple):
    """All sockets of the platform, for as long as it lives."""

    routers: list[Ports]
    billing: Ports
    operator: socket.socket

    def all(self) -> Iterator[socket.socket]:
        """Each of them."""
        for ports in (*self.routers, self.billing):
            yield from ports
        yield self.operator


def bind(options: UpOptions) -> Listeners:
    """Binds every port. Only the gateway listens beyond this machine, where `host` says so.

    Raises PortInUseError; what was bound before is closed again.
    """

    def ops(offset: int) -> int:
        return options.ops_port + offset if options.ops_port else 0

    made: list[socket.socket] = []

    def take(host: str, port: int, setting: str) -> socket.socket:
        made.append(sockets.listen(host, port, setting))
        return made[-1]

    try:
        routers = [
            Ports(
                take(options.host, options.port if first else 0, "PORT"),
                take(LOOPBACK, ops(0) if first else 0, "OPS_PORT"),
            )
            for first in (index == 0 for index in range(options.routers))
        ]
        billing = Ports(
            take(LOOPBACK, options.admin_port, "ADMIN_PORT"), take(LOOPBACK, ops(1), "OPS_PORT")
        )
        return Listeners(routers, billing, take(LOOPBACK, ops(2), "OPS_PORT"))
    except sockets.PortInUseError:
        for bound in made:
            bound.close()
        raise


def specs(
    options: UpOptions, listeners: Listeners, secrets: Secrets, inherited: Mapping[str, str]
) -> list[PartSpec]:
    """The parts: routers first, then billing."""
    own = {
        "TIDEGATE_INTERNAL_TOKEN": secrets.internal,
        "TIDEGATE_KEY_PEPPER": secrets.pepper,
        "TIDEGATE_LOG_LEVEL": options.log_level,
        "TIDEGATE_LOG_FORMAT": options.log_format,
        leftovers.MARK: leftovers.mark(options.data),
    }
    env = environment.for_part(inherited, own)
    made = [
        _router(options, listeners, ports, "router" if not index else f"router-{index + 1}", env)
        for index, ports in enumerate(listeners.routers)
    ]
    return [*made, _billing(options, listeners, env | {"TIDEGATE_ADMIN_TOKEN": secrets.admin})]


def _part(name: str, args: list[str], env: Mapping[str, str], ports: Ports) -> PartSpec:
    fds = [ports.serve.fileno(), ports.ops.fileno()]
    args = [*args, "--listen-fd", str(fds[0]), "--ops-fd", str(fds[1])]
    return PartSpec(name, args, env, fds, sockets.url(ports.ops), sockets.url(ports.serve))


def _router(
    options: UpOptions, listeners: Listeners, ports: Ports, name: str, env: Mapping[str, str]
) -> PartSpec:
    journal, data = options.data / "journal" / name, options.data / "routers" / name
    for folder in (journal, data):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    args = [*ROUTER, "--name", name, "--host", options.host]
    args += ["--billing-url", sockets.url(listeners.billing.serve)]
    args += ["--world-url", sockets.url(listeners.operator)]
    args += ["--journal-dir", str(journal), "--data", str(data)]
    args += ["--durability", options.durability]
    return _part(name, args, env, ports)


def _billing(options: UpOptions, listeners: Listeners, env: Mapping[str, str]) -> PartSpec:
    args = [*BILLING, "--host", LOOPBACK]
    args += ["--database-url", f"sqlite+aiosqlite:///{options.data / 'billing.db'}"]
    args += ["--operator-url", sockets.url(listeners.operator)]
    args += ["--webhook-destinations", "local"]  # its tenants are of this machine
    return _part("billing", args, env, listeners.billing)
