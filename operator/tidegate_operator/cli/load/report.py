"""A load's document as words for a terminal and as an HTML page. Pure.

The page is one file: its style and its charts are in it, it has no script and loads nothing.
"""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tidegate_operator.cli.load import chart
from tidegate_operator.cli.load.chart import Series
from tidegate_operator.cli.load.figures import Sample

TIMES = (
    ("ttft_seconds", "time to first token"),
    ("itl_seconds", "between chunks"),
    ("latency_seconds", "whole answer"),
    ("error_seconds", "until an error"),
    ("late_seconds", "sent late"),
)
COLUMNS = ("n", "mean", "p50", "p90", "p95", "p99", "max")
STYLE = """
:root { color-scheme: light dark; --a: #2468b0; --b: #c2571a; --c: #4a8c3f; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 780px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem } table { border-collapse: collapse; margin: 1rem 0; width: 100% }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: right }
th:first-child, td:first-child { text-align: left }
figure { margin: 2rem 0 } figcaption { font-weight: 600 } svg { width: 100%; height: auto }
.grid { stroke: var(--line) } .tick, .axis { font-size: 11px; fill: currentColor; opacity: .75 }
.y { text-anchor: end } .x { text-anchor: middle } .warning, .error { border-left: 4px solid var(--b); padding-left: .8rem }
.legend span { margin-right: 1.2rem } .legend i { display: inline-block; width: .8em; height: .8em; margin-right: .4em }
"""


def milliseconds(value: float) -> str:
    """A time for people, in milliseconds."""
    return f"{value * 1000:.1f}" if value < 10 else f"{value * 1000:.0f}"


def rows(found: Mapping[str, Any]) -> list[list[str]]:
    """The table of times: what, then its spread in milliseconds."""
    made = []
    for name, words in TIMES:
        spread = found.get(name)
        if spread is not None:
            made.append([words, str(spread["n"]), *(milliseconds(spread[c]) for c in COLUMNS[1:])])
    for group in found.get("by_prompt_words", ()):
        spread = group["ttft_seconds"] or group["latency_seconds"]
        if spread is not None and len(found["by_prompt_words"]) > 1:
            what = "first token" if group["ttft_seconds"] else "answer"
            words = f"{what}, {group['words']} words"
            made.append([words, str(spread["n"]), *(milliseconds(spread[c]) for c in COLUMNS[1:])])
    return made


def lines(found: Mapping[str, Any]) -> list[str]:
    """What came of it, above the table."""
    good, share = f"{found['ok']} of {found['requests']} good", found["failed_share"]
    tokens = found["tokens"]
    into, out = found["prompt_tokens_per_second"], found["completion_tokens_per_second"]
    rate = f"{found['requests_per_second']:.2f} requests/s"
    made = [
        f"{found['url']}, model {found['model']}, {found['loop']}",
        f"{good} ({share:.2%} failed) in {found['seconds']:.1f} s: {rate}",
        f"tokens/s: {into:.1f} in, {out:.1f} out ({tokens['prompt']} in, {tokens['completion']} out)",
        f"times are milliseconds from the {found['measured_from']}; percentiles by nearest rank",
    ]
    made += [f"error: {words}: {count}" for words, count in found["errors"].items()]
    return made + [f"warning: {words}" for words in found["warnings"]]


def page(found: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """The HTML report."""
    head, *more = lines(found)
    words = "".join(
        f'<p class="{one.partition(":")[0] if one.startswith(("warning", "error")) else "plain"}">'
        f"{escape(one)}</p>"
        for one in more
    )
    titles = "".join(f"<th>{escape(one)}</th>" for one in ("ms", *COLUMNS))
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows(found)
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>Load: {escape(str(found['model']))}</title><style>{STYLE}</style></head><body>"
        f"<h1>Load: {escape(str(found['model']))}</h1><p>{escape(head)}</p>{words}"
        f"<table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table>"
        f"{''.join(charts(found, samples))}"
        f"<p>{escape(str(found['made_at']))}, tidegate {escape(str(found['tidegate']))}</p></body></html>\n"
    )


def charts(found: Mapping[str, Any], samples: Sequence[Sample]) -> list[str]:
    """The charts: over time, and how times are spread."""
    over = found["over_time"]

    def series(name: str, key: str, factor: float = 1.0) -> Series:
        return Series(name, [(r["second"], _times(r[key], factor)) for r in over])

    good = [one for one in samples if not one.error]
    spreads = [
        Series("first token", distribution([one.ttft for one in good if one.ttft is not None])),
        Series("whole answer", distribution([one.took for one in good])),
    ]
    return [
        chart.lines(
            "Time to first token, by when the request was due",
            [series("p50", "ttft_p50", 1000), series("p99", "ttft_p99", 1000)],
            x="seconds after the start", y="ms",
        ),
        chart.lines(
            "Requests", [series("due", "due"), series("ended", "ended"), series("failed", "failed")],
            x="seconds after the start", y="per stretch",
        ),
        chart.lines("In flight", [series("in flight", "in_flight")],
                    x="seconds after the start", y="requests"),
        chart.lines(
            "Tokens out", [series("tokens/s", "completion_tokens_per_second")],
            x="seconds after the start", y="tokens/s",
        ),
        chart.lines("How many are faster", spreads, x="percent of the good answers", y="ms"),
    ]  # fmt: skip


def distribution(values: Sequence[float], most: int = 200) -> list[tuple[float, float | None]]:
    """Percent of the values, and the time within which those are, in milliseconds."""
    known = sorted(values)
    count = len(known)
    step = max(1, count // most)
    places = [*range(step, count, step), count] if count else []
    return [(100 * place / count, known[place - 1] * 1000) for place in places]


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
