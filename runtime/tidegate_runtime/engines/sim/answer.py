"""One answer while it is generated: how far it is at a given time.

Times are arguments; nothing here reads a clock or a socket. Tokens are counted over all choices
(token `j` belongs to choice `j % width`), and a step makes one token for each choice.

An engine generates whether or not its client reads, so `made` follows the clock and `sent` follows
the socket. What is made and not yet sent needs no memory: the script renders it when there is room.
"""

from tidegate_runtime.engines.sim.fault import Fault
from tidegate_runtime.engines.sim.render import Script
from tidegate_runtime.engines.sim.request import Ask

BATCH = 128
"""Steps per tick of an answer without a rate, and events per write of one that lags."""

RUNNING, COMPLETED, BROKEN = 0, 1, 2


class Answer:
    """The state of one generation. `made` and `sent` are token counts; `sent` is what the truth
    file may say of the tick under way: everything handed to the socket, this tick's included."""

    __slots__ = (
        "ask",
        "fault",
        "first",
        "gap",
        "line",
        "made",
        "opened",
        "over",
        "queued",
        "script",
        "sent",
        "stop",
        "total",
        "width",
        "written",
    )

    def __init__(self, ask: Ask, script: Script, line: bytes, *, first: float, gap: float) -> None:
        """`first`: when the first token is due. `gap`: seconds between steps, 0 without a rate."""
        self.ask = ask
        self.script = script
        self.line = line
        self.first = first
        self.gap = gap
        self.width = ask.choices
        self.total = ask.choices * ask.max_tokens
        self.made = 0
        self.sent = 0
        self.written = 0
        self.fault: Fault | None = None
        self.stop = self.total + 1
        self.opened = False
        self.over = False
        self.queued = False

    @property
    def due(self) -> float:
        """When the next step is due."""
        return self.first + self.made // self.width * self.gap

    @property
    def generating(self) -> bool:
        """Whether the engine still works on it (a client may still have to read the rest)."""
        return self.made < self.total

    @property
    def fault_kind(self) -> str:
        """The kind of the fault that breaks it, "" without one."""
        return self.fault.kind if self.fault else ""

    def break_at(self, fault: Fault | None) -> None:
        """Apply the fault that breaks answers, or lift it."""
        self.fault = fault
        if fault is None:
            self.stop = self.total + 1
        else:
            self.stop = self.made if fault.at is None else max(self.made, fault.at)

    def resume(self, now: float) -> None:
        """Go on at the usual rate from here, without catching up on the time spent hanging."""
        self.first = max(self.first, now - self.made // self.width * self.gap)

    def step(self, now: float, *, paused: bool) -> int:
        """Advance to `now`; what `sent` grew by since `written` is to be written.

        RUNNING: more to come. COMPLETED: this write is the last. BROKEN: the fault strikes now.
        """
        made = self._advance(now)
        if made == self.made and self._struck():
            return BROKEN
        self.made = made
        if not self.ask.stream:
            if made < self.total or self.stop <= made:
                return RUNNING
            self.sent = made
            return COMPLETED
        if paused:
            return RUNNING
        self.sent = min(made, self.sent + BATCH * self.width)
        return COMPLETED if self.sent == self.total and self.stop > made else RUNNING

    def again(self, *, paused: bool) -> bool:
        """Whether time alone moves it on (else the socket must)."""
        if self.made < min(self.total, self.stop):
            return True
        return not paused or self._struck()

    def _advance(self, now: float) -> int:
        cap = min(self.total, self.stop)
        if self.gap > 0:
            # The sum of floats may fall short of a step by a rounding error: never wait twice.
            steps = int((now - self.first) / self.gap + 1e-6) + 1
        else:
            steps = self.made // self.width + BATCH
        return max(self.made, min(cap, steps * self.width))

    def _struck(self) -> bool:
        """The fault's token is made, and sent as well unless the whole engine dies of it."""
        if self.fault is None or self.made < self.stop:
            return False
        return self.fault.kind == "crash" or not self.ask.stream or self.sent == self.made
