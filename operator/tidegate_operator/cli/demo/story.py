"""What a person sees of a demo: the phase a start is in and for how long, tokens as they come,
and the summary. With `--json` nobody is told anything but the result."""

import threading
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.status import Status
from rich.table import Table

from tidegate_operator.cli.up import duration


class Story:
    """The silent one; every method may be called from any thread."""

    def note(self, text: str) -> None:
        """One line of what happens next."""

    def event(self, event: Mapping[str, Any]) -> None:
        """One event of the platform."""

    def waiting(self, what: str) -> None:
        """From now on somebody waits for something."""

    def token(self, piece: str) -> None:
        """A piece of an answer."""

    def done(self) -> None:
        """The answer, or the waiting, is over."""

    def result(self, result: Mapping[str, Any]) -> None:
        """The closing numbers."""


class Told(Story):
    """The one for people. Phases are a spinner in a terminal and lines elsewhere."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._lock = threading.RLock()
        self._status: Status | None = None
        self._what = ""
        self._phase = ""
        self._since = 0.0
        self._open = True
        if self._console.is_terminal:
            threading.Thread(target=self._clock, daemon=True).start()

    def note(self, text: str) -> None:
        with self._lock:
            self.done()
            self._console.print(text, markup=False)

    def event(self, event: Mapping[str, Any]) -> None:
        if event.get("event") != "model":
            return
        words = [str(event.get(name, "")) for name in ("phase", "detail", "warning")]
        phase = f"{event.get('name', '')}: {' '.join(word for word in words if word)}"
        with self._lock:
            changed, self._phase = phase != self._phase, phase
            self._since = float(event.get("since") or event.get("ts") or time.time())
            if self._status is None and changed and not self._console.is_terminal and self._what:
                self._console.print(f"  {phase}", markup=False)

    def waiting(self, what: str) -> None:
        with self._lock:
            self.done()
            self._what = what
            if self._console.is_terminal:
                self._status = self._console.status(what)
                self._status.start()
            else:
                self._console.print(what, markup=False)

    def token(self, piece: str) -> None:
        with self._lock:
            if self._what:
                self.done()
                self._console.print("  > ", end="", markup=False)
            self._console.print(piece, end="", markup=False, soft_wrap=True)
            self._console.file.flush()

    def done(self) -> None:
        with self._lock:
            self._what = ""
            if self._status is not None:
                self._status.stop()
                self._status = None

    def result(self, result: Mapping[str, Any]) -> None:
        with self._lock:
            self.done()
            self._console.print(summary(result))

    def _clock(self) -> None:
        while True:
            time.sleep(1)
            with self._lock:
                if self._status is not None:
                    lasted = duration(time.time() - self._since) if self._phase else ""
                    self._status.update(f"{self._what}  {self._phase} {lasted}".rstrip())


def summary(result: Mapping[str, Any]) -> Table:
    """The closing numbers as a table."""
    table = Table(title="what happened", show_header=False, title_justify="left")
    share = result["own_share_ms"]
    bill = result["bill"]
    rows = {
        "model": f"{result['model']} ({result['engine']})",
        "requests, held among them": f"{result['requests']}, {result['held']}",
        "cold starts": _seconds(result["cold_start_seconds"]),
        "first token after": _seconds(result["first_token_seconds"]),
        "our own share of a cold start": (
            f"p50 {share['p50']:.0f} ms, p99 {share['p99']:.0f} ms, max {share['max']:.0f} ms"
            f" (n = {share['n']})"
        ),
        "tokens, prompt + completion": "",
        "  the engines counted": _tokens(result["engine_tokens"]),
        "  the ledger billed": _tokens(result["ledger_tokens"]),
        "  unbilled (readiness probes)": _tokens(result["unbilled_tokens"]),
        "the bill": f"{bill['amount']} {bill['currency']} (exactly {bill['amount_exact']})",
        "the numbers close": "yes" if result["ok"] else f"NO: {result['error']}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _tokens(tokens: Mapping[str, int]) -> str:
    return f"{tokens['prompt']} + {tokens['completion']}"


def _seconds(values: list[float]) -> str:
    if len(values) > 4:
        ordered = sorted(values)
        middle = ordered[len(ordered) // 2]
        return f"{len(values)}: median {middle:.2f} s, longest {ordered[-1]:.2f} s"
    return ", ".join(f"{value:.2f} s" for value in values)
