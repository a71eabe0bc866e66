"""The live table of `tidegate up` and of `status --watch` in a terminal, with its keys.

Its clock runs while something is starting or serving and stands still otherwise, because an idle
platform must cost nothing: no refresh timer runs while every model rests. It draws once a second
at most, and at once for a key.
"""

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, RenderableType
from rich.live import Live
from rich.table import Table

from tidegate_operator import local
from tidegate_operator.cli import board, logs, output, watching
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.keyboard import Keyboard
from tidegate_operator.cli.platform import Client
from tidegate_operator.cli.up import duration, sentence
from tidegate_operator.local import enginelog

RESTING = frozenset({"", "Idle", "Ready", "Failed", "Suspended"})
"""Phases whose duration nobody watches second by second."""
EMPTY = frozenset({"", *watching.RESTING})
"""Phases in which nothing runs, so that no number moves."""
REFRESH_SECONDS = 1.0
COST_SECONDS = 3.0
LOG_LINES = 8
HELP = "up/down choose   w wake   s sleep   l log   q end"

Connect = Callable[[], Client]


class Screen:
    """The live table of a terminal. `report` comes from one thread, everything else is in another.

    Without `connect` it shows what events tell; with it, from the `ready` event on, what the
    platform tells of itself.
    """

    def __init__(
        self,
        console: Console | None = None,
        clock: Callable[[], float] = time.time,
        connect: Connect | None = None,
        keyboard: Keyboard | None = None,
    ) -> None:
        self._console = console or Console()
        self._clock, self._connect, self._keyboard = clock, connect, keyboard
        self._models: dict[str, local.Event] = {}
        self._lock = threading.Lock()
        self._open, self._serving = True, False
        self._client: Client | None = None
        self._view: View | None = None
        self._woken, self._wake = os.pipe()
        os.set_blocking(self._wake, False)  # a screen that hangs never holds the platform up
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._ticker = threading.Thread(target=self._tick, name="screen", daemon=True)
        self._ticker.start()

    def report(self, event: local.Event) -> None:
        """Show one event: a model's in the table, the others as lines above it."""
        with self._lock:
            if event.event == "model" and event.phase == "Removed":
                self._models.pop(event.deployment or event.name, None)
            elif event.event == "model":
                self._models[event.deployment or event.name] = event
            elif event.event in {"ready", "stopped"}:
                self._serving = event.event == "ready"
        if event.event != "model":
            style = "red" if event.event == "error" else None
            self._console.print(sentence(event), style=style, markup=False, highlight=False)
        self._nudge()

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._open = False
        self._nudge()
        self._ticker.join()
        with contextlib.suppress(OSError):
            self._live.stop()
        if self._keyboard is not None:
            self._keyboard.close()
        os.close(self._woken)
        os.close(self._wake)

    def table(self) -> Table:
        """The models as events told of them, each with its phase and for how long."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in ("model", "phase", "for", "detail"):
            table.add_column(column, no_wrap=column != "detail")
        now = self._clock()
        with self._lock:
            models = sorted(self._models.items())
        for key, event in models:
            since = event.since or event.ts
            detail = " ".join(word for word in (event.detail, event.warning) if word)
            lasted = duration(now - since) if moving(event) else ""
            table.add_row(event.name or key, event.phase, lasted, detail)
        return table

    def _nudge(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it has news enough
            os.write(self._wake, b".")

    def _tick(self) -> None:
        pressed: list[str] = []
        with contextlib.suppress(OSError):  # the terminal is gone; what runs goes on
            while self._open:
                self._live.update(self._drawn(pressed), refresh=True)
                pressed = self._pause()
        if self._client is not None:
            self._client.close()

    def _drawn(self, pressed: list[str]) -> RenderableType:
        if "q" in pressed:
            os.kill(os.getpid(), signal.SIGINT)
        if not self._serving or self._connect is None:
            return self.table()
        try:
            if self._view is None:
                self._client = self._connect()
                self._view = View(self._client, self._clock, self._say)
            for key in pressed:
                self._view.press(key)
            return self._view.page(HELP if self._keyboard else "")
        except CommandError:  # it is ending, or too busy to say
            return self.table()

    def _say(self, words: str) -> None:
        self._console.print(words, style="red", markup=False, highlight=False)

    def _pause(self) -> list[str]:
        """Returns when it is time to draw again, with the keys that were pressed."""
        until = time.monotonic() + REFRESH_SECONDS
        if not self._busy() and (pressed := self._wait(None)):
            return pressed
        while self._open and (rest := until - time.monotonic()) > 0:
            if pressed := self._wait(rest):
                return pressed
        return []

    def _busy(self) -> bool:
        with self._lock:
            phases = {event.phase for event in self._models.values()}
        return not phases <= EMPTY

    def _wait(self, timeout: float | None) -> list[str]:
        """Waits for a key or for news; the keys."""
        watched = [self._woken, *([self._keyboard.fd] if self._keyboard else [])]
        found, _, _ = select.select(watched, [], [], timeout)
        if self._woken in found:
            os.read(self._woken, 4096)
        if self._keyboard is None or self._keyboard.fd not in found:
            return []
        try:
            return self._keyboard.read()
        except EOFError:
            self._keyboard = None
            return []


class View:
    """What is drawn of a running platform: the chosen model, its log, the keys' effects."""

    def __init__(
        self, client: Client, clock: Callable[[], float], say: Callable[[str], None]
    ) -> None:
        self._client, self._clock, self._say = client, clock, say
        self._watching = watching.Watching(client)
        self._asked_costs, self._pause = 0.0, COST_SECONDS
        self._seen: watching.Seen | None = None
        self._index = 0
        self._log = False
        self._phases: list[str] = []

    def look(self) -> watching.Seen:
        """The platform now; costs now and then, and when a phase changed. Raises CommandError."""
        now = self._clock()
        due = now - self._asked_costs >= self._pause
        seen = self._watching.look(costs=due)
        phases = [str(row["phase"]) for row in seen.rows]
        if not due and phases != self._phases:
            seen, due = self._watching.look(), True
        if due:
            self._asked_costs = now
            # Many tenants are many questions: asking takes a twentieth of the time at most.
            self._pause = max(COST_SECONDS, 20 * (self._clock() - now))
        self._phases, self._seen = phases, seen
        return seen

    def page(self, help_line: str) -> RenderableType:
        """The view now. Raises CommandError where the platform does not answer."""
        seen = self.look()
        log = self._last_words() if self._log else []
        chosen = self._chosen() if help_line else ""
        return board.page(seen, self._clock(), chosen=chosen, log=log, help_line=help_line)

    def press(self, key: str) -> None:
        """Acts on a key; what the platform refuses is said."""
        if key in {"up", "down"}:
            count = len(self._seen.rows) if self._seen else 0
            step = 1 if key == "down" else -1
            self._index = max(0, min(count - 1, self._index + step))
        elif key == "l":
            self._log = not self._log
        elif key in {"w", "s"} and (chosen := self._chosen()):
            try:
                watching.ask(self._client, chosen, "wake" if key == "w" else "sleep")
            except CommandError as error:
                self._say(f"error: {error}")

    def _chosen(self) -> str:
        names = sorted(str(row["deployment"]) for row in self._seen.rows) if self._seen else []
        return names[min(self._index, len(names) - 1)] if names else ""

    def _last_words(self) -> list[str]:
        data, chosen = self._client.platform.data, self._chosen()
        files = enginelog.replicas(enginelog.folder(data or Path(), chosen))
        if not files:
            return [f"--- {chosen}: nothing was said yet"]
        try:
            return [f"--- {files[-1].stem}", *logs.tail(files[-1], LOG_LINES)]
        except OSError:
            return []


def watch(client: Client) -> None:
    """`status --watch`: the view until Ctrl-C or q; plain lines where there is no terminal.
    Raises CommandError when the platform ends."""
    console = Console()
    try:
        if output.redraws(console):
            _watch_terminal(client, console)
        else:
            _watch_lines(client)
    except KeyboardInterrupt:
        return


def _watch_terminal(client: Client, console: Console) -> None:
    keyboard = Keyboard.opened()

    def say(words: str) -> None:
        console.print(words, style="red", markup=False, highlight=False)

    view = View(client, time.time, say)
    try:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while True:
                live.update(view.page(HELP if keyboard else ""), refresh=True)
                watched = [keyboard.fd] if keyboard else []
                if not select.select(watched, [], [], REFRESH_SECONDS)[0] or keyboard is None:
                    continue
                for key in keyboard.read():
                    if key == "q":
                        return
                    view.press(key)
    except EOFError:
        return
    finally:
        if keyboard is not None:
            keyboard.close()


def _watch_lines(client: Client) -> None:
    shown: dict[str, str] = {}
    look = watching.Watching(client)
    while True:
        for row in look.look(costs=False).rows:
            line = watching.words(row)
            if shown.get(row["deployment"]) != line:
                shown[row["deployment"]] = line
                print(line, flush=True)
        time.sleep(REFRESH_SECONDS)


def moving(event: local.Event) -> bool:
    """Whether a model is in a phase whose duration people watch."""
    return event.phase not in RESTING
