"""Telling a service manager how it stands: systemd's `sd_notify`, which is one datagram a message.

`Type=notify` in a unit means: it counts as started when it says READY=1, here when router and
billing serve; models may still be fetched, as they may be later. STATUS is the line that
`systemctl status` shows. The variable is taken out of the environment, so that no part and no
engine can speak in our name. Without it nothing is sent.
"""

import contextlib
import socket
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping

from tidegate_operator.local.options import Event

VARIABLE = "NOTIFY_SOCKET"
_LONGEST_STATUS = 200


class Notifier:
    """A service manager's socket. `address` as in NOTIFY_SOCKET: a path, or `@name`."""

    def __init__(self, address: str) -> None:
        # Linux' abstract sockets: their name begins with a zero byte, written as @.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._models: dict[str, str] = {}
        self._last = ""

    def hear(self, event: Event) -> None:
        """Passes on what the manager wants to know of an event."""
        if event.event == "model":
            self._models[event.deployment or event.name] = event.phase
        message = message_of(event, self._models)
        if message and message != self._last:
            self._last = message
            self._send(message)

    def _send(self, message: str) -> None:
        # A manager that is gone or busy must not stop what it manages.
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line,
        ):
            line.setblocking(False)
            line.sendto(message.encode(), self._address)


def message_of(event: Event, models: Mapping[str, str]) -> str:
    """What an event says to the manager; '' = nothing. `models`: each model's phase."""
    if event.event == "ready":
        return f"READY=1\nSTATUS=serving on {event.base_url}{_phases(models)}"
    if event.event == "model":
        return f"STATUS=serving{_phases(models)}"
    if event.event == "error":
        return f"STATUS={_line(event.name, event.message)}"
    if event.event == "stopping":
        return "STOPPING=1\nSTATUS=stopping: what runs may finish"
    return ""


def telling(
    report: Callable[[Event], None], environ: MutableMapping[str, str]
) -> Callable[[Event], None]:
    """`report`, and the service manager told too, where there is one."""
    address = environ.pop(VARIABLE, "")
    if not address.startswith(("/", "@")):
        return report
    notifier = Notifier(address)

    def both(event: Event) -> None:
        report(event)
        notifier.hear(event)

    return both


def _phases(models: Mapping[str, str]) -> str:
    counts = Counter(phase or "Pending" for phase in models.values())
    words = ", ".join(f"{count} {phase}" for phase, count in sorted(counts.items()))
    return f"; models: {words}" if words else ""


def _line(name: str, message: str) -> str:
    text = " ".join(f"{name}: {message}".split()) if name else " ".join(message.split())
    return text[:_LONGEST_STATUS]
