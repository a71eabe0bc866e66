"""`tidegate bench load`: sends it, shows it, and says what came of it."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.live import Live
from rich.table import Table

from tidegate_operator.cli import output
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.load import figures, report
from tidegate_operator.cli.load.drive import Run, Target
from tidegate_operator.cli.load.plan import Load

SHOW_SECONDS, LINE_SECONDS = 0.5, 5.0


def run(load: Load, target: Target, *, html: Path | None, as_json: bool) -> int:
    """Sends the load; the exit status: 1 where a request failed. Raises CommandError where the
    server does not answer at all, or the report cannot be written."""
    if html is not None and not html.absolute().parent.is_dir():
        raise CommandError(f"{html.absolute().parent} is not a directory")
    found, samples = asyncio.run(_run(load, target))
    if html is not None:
        try:
            html.write_text(report.page(found, samples), encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{html} cannot be written: {error.strerror}") from None
    if as_json:
        print(output.line(found))
    else:
        _print(found)
    return 1 if found["failed"] or not found["requests"] else 0


async def _run(load: Load, target: Target) -> tuple[dict[str, Any], list[figures.Sample]]:
    run = Run(load, target)
    try:
        if not load.model:
            load = run.load = replace(load, model=await _only_model(run))
        if words := await run.warm():
            raise CommandError(f"{target.url} did not answer the warm-up: {words}")
        sending = asyncio.create_task(run.go())
        with _interrupted(sending), _shown(run) as show:
            while not sending.done():
                await asyncio.wait({sending}, timeout=SHOW_SECONDS)
                show()
        interrupted = sending.cancelled()
        if not interrupted:
            sending.result()
    finally:
        await run.close()
    open_loop = load.rate is not None
    numbers = figures.document(run.samples, run.seconds, open_loop=open_loop, lags=run.lags)
    return _head(load, target, interrupted) | numbers, run.samples


def _head(load: Load, target: Target, interrupted: bool) -> dict[str, Any]:
    return {
        "version": 1,
        "tidegate": version("tidegate"),
        "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": target.url,
        "model": load.model,
        "loop": loop_words(load),
        "load": {
            "concurrency": None if load.rate else load.concurrency,
            "rate": load.rate,
            "arrivals": load.arrivals if load.rate else None,
            "requests": load.requests,
            "seconds": load.seconds,
            "streams": load.streams,
            "prompts": [{"words": words, "weight": weight} for words, weight in load.prompts],
            "max_tokens": load.max_tokens,
            "seed": load.seed,
            "warmup": load.warmup,
        },
        "interrupted": interrupted,
    }


def loop_words(load: Load) -> str:
    """The kind of the load, for people."""
    if load.rate is None:
        return f"closed loop of {load.concurrency} callers"
    return f"open loop of {load.rate:g} requests/s ({load.arrivals})"


async def _only_model(run: Run) -> str:
    try:
        names = await run.models()
    except (httpx.HTTPError, ValueError, KeyError) as error:
        why = str(error) or type(error).__name__
        raise CommandError(f"the models cannot be listed ({why}); name one: --model") from None
    if len(names) != 1:
        raise CommandError(f"which model? --model, one of: {', '.join(names) or 'none'}")
    return names[0]


@contextlib.contextmanager
def _interrupted(sending: asyncio.Task[None]) -> Iterator[None]:
    """Ctrl-C ends the sending; what is over is still reported."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, sending.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class _Lines:
    """How far it is, as a line now and then."""

    def __init__(self, run: Run) -> None:
        self._run, self._next = run, LINE_SECONDS

    def __call__(self) -> None:
        if self._run.clock < self._next:
            return
        self._next = self._run.clock + LINE_SECONDS
        print(progress(self._run), file=sys.stderr, flush=True)


@contextlib.contextmanager
def _shown(run: Run) -> Iterator[Any]:
    console = Console(stderr=True)
    if not output.redraws(console):
        yield _Lines(run)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield lambda: live.update(progress(run), refresh=True)


def progress(run: Run) -> str:
    """How far a load is, in one line. Its numbers are those of what has ended."""
    over, now = run.samples, run.clock
    failed = sum(bool(one.error) for one in over)
    recent = [one for one in over if one.ended > now - 2]
    tokens = sum(one.completion_tokens for one in recent) / 2
    words = [
        f"{now:.0f} s: {len(over)} of {run.load.requests} over",
        f"{run.flying} in flight",
        f"{failed} failed",
        f"{len(recent) / 2:.1f} requests/s",
        f"{tokens:.0f} tokens/s",
    ]
    ttft = figures.spread(one.ttft for one in over if not one.error)
    if ttft is not None:
        p50, p99 = report.milliseconds(ttft.p50), report.milliseconds(ttft.p99)
        words.append(f"first token p50 {p50} ms, p99 {p99} ms")
    return ", ".join(words)


def _print(found: dict[str, Any]) -> None:
    for line in report.lines(found):
        print(line)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(("ms", *report.COLUMNS)):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    for row in report.rows(found):
        table.add_row(*row)
    Console().print(table)
