"""The live table of `tidegate up` in a terminal: each model with its phase and for how long.

Its clock runs while something is starting and stands still otherwise, because an idle platform
must cost nothing: no refresh timer runs while every model rests, and never more than one a second.
"""

import threading
import time
from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table

from tidegate_operator import local
from tidegate_operator.cli.up import duration, sentence

RESTING = frozenset({"", "Idle", "Ready", "Failed", "Suspended"})
"""Phases whose duration nobody watches second by second."""
REFRESH_SECONDS = 1.0


class Screen:
    """The live table of a terminal. `report` comes from one thread, the clock is another."""

    def __init__(
        self, console: Console | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._console = console or Console()
        self._clock = clock
        self._models: dict[str, local.Event] = {}
        self._changed = threading.Condition()
        self._open = True
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._ticker = threading.Thread(target=self._tick, name="screen", daemon=True)
        self._ticker.start()

    def report(self, event: local.Event) -> None:
        """Show one event: a model's in the table, the others as lines above it."""
        with self._changed:
            if event.event == "model" and event.phase == "Removed":
                self._models.pop(event.deployment or event.name, None)
            elif event.event == "model":
                self._models[event.deployment or event.name] = event
            else:
                style = "red" if event.event == "error" else None
                self._console.print(sentence(event), style=style, markup=False, highlight=False)
            self._changed.notify()

    def close(self) -> None:
        """Leave the terminal as it was."""
        with self._changed:
            self._open = False
            self._changed.notify()
        self._ticker.join()
        self._live.stop()

    def table(self) -> Table:
        """The models as they are now, each with its phase and for how long."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("model", "phase", "for", "detail"):
            table.add_column(column, no_wrap=column != "detail")
        now = self._clock()
        for key, event in sorted(self._models.items()):
            since = event.since or event.ts
            detail = " ".join(word for word in (event.detail, event.warning) if word)
            lasted = duration(now - since) if moving(event) else ""
            table.add_row(event.name or key, event.phase, lasted, detail)
        return table

    def _tick(self) -> None:
        while True:
            with self._changed:
                if not self._open:
                    return
                self._live.update(self.table(), refresh=True)
                if not any(moving(event) for event in self._models.values()):
                    self._changed.wait()
            time.sleep(REFRESH_SECONDS)


def moving(event: local.Event) -> bool:
    """Whether a model is in a phase whose duration people watch."""
    return event.phase not in RESTING
