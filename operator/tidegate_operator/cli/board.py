"""A platform at a moment, as a table for people. Pure: what is seen goes in, what is drawn comes out."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from tidegate_operator.cli.up import duration
from tidegate_operator.cli.watching import RESTING, Seen, money_words, total

COLUMNS = ("model", "phase", "for", "ready", "in flight", "held", "in/s", "out/s", "cost")
WORDS = frozenset({"model", "phase", "for"})
STYLES = {"Ready": "green", "Starting": "yellow", "Degraded": "yellow", "Failed": "red"}


def table(seen: Seen, now: float, chosen: str = "", *, live: bool = False) -> Table:
    """One row per model; `in/s` and `out/s` are tokens. `chosen`: the deployment that keys act on.
    `live`: it stays on a screen whose clock stands still while everything rests."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    rows = sorted(seen.rows, key=lambda one: str(one["deployment"]))
    costs = [money_words(seen.cost(str(row["name"]))) for row in rows]
    for column in COLUMNS:
        # Where it is narrow a long name is cut, and no number.
        widest = max(map(len, costs), default=0) if column == "cost" else 5
        width = None if column == "model" else max(len(column), widest)
        left = column in WORDS
        drawn.add_column(column, justify="left" if left else "right", no_wrap=True, min_width=width)
    for row, cost in zip(rows, costs, strict=True):
        mark = "> " if row["deployment"] == chosen else ""
        drawn.add_row(
            Text(mark + str(row["name"])),
            Text(str(row["phase"]), style=STYLES.get(str(row["phase"]), "")),
            lasted(row, now, live=live),
            f"{row['ready']}/{row['desired']}",
            str(row["in_flight"]),
            str(row["held"]),
            per_second(row["input_per_second"]),
            per_second(row["output_per_second"]),
            cost,
        )
    return drawn


def lasted(row: Mapping[str, Any], now: float, *, live: bool) -> str:
    """How long a model has been in its phase; on a live screen, for one that rests, since when."""
    since = float(row["since"])
    if live and row["phase"] in RESTING:
        return time.strftime("since %H:%M", time.localtime(since))
    return duration(now - since)


def details(seen: Seen) -> list[Text]:
    """A line for each model of which there is more to say than numbers."""
    rows = sorted(seen.rows, key=lambda one: str(one["deployment"]))
    return [Text(f"{row['name']}: {words}") for row in rows if (words := detail(row))]


def detail(row: Mapping[str, Any]) -> str:
    """What is going on in a model: a start with its phases, the last one, a failure, a warning."""
    words = []
    start = row.get("start")
    if start:
        words.append(f"starting for {start['seconds']:.1f}s: {phases(start['phases'])}")
    elif row.get("phase_detail"):
        words.append(str(row["phase_detail"]))
    if row.get("draining"):
        words.append(f"{row['draining']} draining")
    last = row.get("cold_start") or {}
    if not start and last.get("last_seconds"):
        words.append(f"last start {last['last_seconds']:.1f}s: {phases(last['phases'])}")
    if row.get("warning"):
        words.append(f"warning: {row['warning']}")
    return "; ".join(words)


def phases(seconds: Mapping[str, float]) -> str:
    """A start's phases with their seconds: `launching 0.3, loading 1.2`."""
    return ", ".join(f"{name} {lasted:.1f}" for name, lasted in seconds.items() if name)


def per_second(value: float) -> str:
    """A rate; nothing where nothing flows."""
    if not value:
        return ""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def summary(seen: Seen) -> str:
    """One line below the table: what all models cost this month."""
    if seen.costs is None:
        return "cost: billing has not said yet"
    words = f"cost this month: {money_words(total(seen.costs.values()))}"
    if seen.unshipped:
        words += f" ({seen.unshipped} records are still on their way)"
    return words


def page(
    seen: Seen, now: float, *, chosen: str = "", log: Sequence[str] = (), help_line: str = ""
) -> RenderableType:
    """All of a live view: the table, an engine's last words, the cost, the keys."""
    below: list[RenderableType] = [*details(seen)]
    below += [Text(line, style="dim", overflow="ellipsis", no_wrap=True) for line in log]
    below.append(Text(summary(seen)))
    if help_line:
        below.append(Text(help_line, style="dim"))
    return Group(table(seen, now, chosen, live=True), *below)


def print_once(seen: Seen) -> None:
    """`tidegate status`."""
    console = Console()
    console.print(f"gateway {seen.base_url}, management {seen.admin_url}", highlight=False)
    down = [str(part.get("name")) for part in seen.parts if not part.get("pid")]
    if down:
        console.print(f"warning: not running just now: {', '.join(down)}", highlight=False)
    if not seen.rows:
        console.print("no models")
        return
    console.print(table(seen, seen.at))
    for line in details(seen):
        console.print(line)
    console.print(summary(seen), highlight=False)
