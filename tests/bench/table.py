"""The bench's rows as tables. A cell is the median over all slices and rounds, the best in brackets.

The best slice is the robust figure on a machine whose neighbours steal time; the median shows
what one saw. Ratios are of medians, and only ever of one run.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Any

Row = Mapping[str, Any]
Value = Callable[[Row], float]
COLUMNS = (
    "router",
    "c1 p50 us",
    "c32 req/s",
    "CPU us/request",
    "/ nginx",
    "/ vllm-router",
    "16 KB: CPU us/request",
    "/ nginx",
    "SSE 20 ms gap: CPU us/chunk",
    "/ nginx",
    "/ vllm-router",
    "no gap: chunks/s",
    "MB idle / loaded",
    "errors",
)


def per_request(row: Row) -> float:
    """CPU microseconds per request."""
    return float(row["cpu_us"]) / max(1, int(row["finished"]))


def per_chunk(row: Row) -> float:
    """CPU microseconds per SSE chunk."""
    return float(row["cpu_us"]) / max(1, int(row["chunks"]))


def render(rows: Iterable[Row]) -> str:
    """Markdown tables, one pair for each layout."""
    by: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    memory: dict[str, list[Row]] = defaultdict(list)
    names: list[str] = []
    for row in rows:
        if row["sut"] not in names:
            names.append(row["sut"])
        if row["test"] == "memory":
            memory[row["sut"]].append(row)
        else:
            by[row["layout"], row["sut"], row["test"]].append(row)
    layouts = sorted({key[0] for key in by})
    return "\n\n".join(_layout(layout, names, by, memory) for layout in layouts)


def _layout(
    layout: str,
    names: list[str],
    by: Mapping[tuple[str, str, str], list[Row]],
    memory: Mapping[str, list[Row]],
) -> str:
    def of(name: str, test: str, value: Value) -> list[float]:
        return [value(row) for row in by.get((layout, name, test), [])]

    def ratio(name: str, test: str, value: Value, reference: str) -> str:
        mine, other = of(name, test, value), of(reference, test, value)
        return f"{median(mine) / median(other):.2f}" if mine and other and any(other) else "-"

    lines = [
        f"### layout {layout}",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for name in names:
        errors = sum(row["errors"] for key, rows in by.items() for row in rows if key[1] == name)
        cells = [
            name,
            _cell(of(name, "c1", lambda row: row["whole_us"]["p50"]), min, "%.0f"),
            _cell(of(name, "c32", lambda row: row["rps"]), max, "%.0f"),
            _cell(of(name, "c32", per_request), min, "%.1f"),
            ratio(name, "c32", per_request, "nginx"),
            ratio(name, "c32", per_request, "vllm-router"),
            _cell(of(name, "big32", per_request), min, "%.1f"),
            ratio(name, "big32", per_request, "nginx"),
            _cell(of(name, "sse20ms", per_chunk), min, "%.1f"),
            ratio(name, "sse20ms", per_chunk, "nginx"),
            ratio(name, "sse20ms", per_chunk, "vllm-router"),
            _cell(of(name, "sse0", lambda row: row["chunks_s"]), max, "%.0f"),
            _memory(memory.get(name, [])),
            str(errors),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: list[float], best: Callable[[list[float]], float], form: str) -> str:
    return f"{form % median(values)} ({form % best(values)})" if any(values) else "-"


def _memory(rows: list[Row]) -> str:
    if not rows or not any(row["idle_mb"] for row in rows):
        return "-"
    return " / ".join(f"{median(row[key] for row in rows):.0f}" for key in ("idle_mb", "loaded_mb"))
