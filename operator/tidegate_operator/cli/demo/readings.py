"""Reading both sides of the ledger: what engines say, and what billing says.

A real engine's counters vanish with its process, so a watch scrapes every engine that `run.json`
lists for as long as it answers and keeps the last counts of each process. The simulator writes
its truth to a file, attempt by attempt.
"""

import json
import threading
from collections.abc import Iterable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

import httpx

from tidegate_operator.cli.demo.closing import Bill, Readings, Settlement, Tokens, total
from tidegate_operator.cli.demo.stage import Stage
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.platform import Client

TENANT = "default"
COUNTERS = {"vllm:prompt_tokens_total": 0, "vllm:generation_tokens_total": 1}
SCRAPE_SECONDS = 0.25


def truth(directory: Path) -> dict[str, Tokens]:
    """Tokens by attempt from a simulator's truth files; the last line of an attempt counts."""
    attempts: dict[str, Tokens] = {}
    for path in sorted(directory.glob("*.ndjson")):
        for line in path.read_text(errors="replace").splitlines():
            try:
                one = json.loads(line)
            except ValueError:
                continue  # the end of a line that a kill cut off
            attempts[one["attempt_id"]] = Tokens(one["prompt_tokens"], one["generated_tokens"])
    return attempts


def counters(text: str) -> Tokens:
    """vLLM's token counters from Prometheus text, summed over their labels."""
    sums = [0.0, 0.0]
    for line in text.splitlines():
        index = COUNTERS.get(line.partition("{")[0].partition(" ")[0])
        if index is not None:
            sums[index] += float(line.rpartition("}")[2].split()[-1])
    return Tokens(int(sums[0]), int(sums[1]))


class Watch:
    """The last counters of every engine process that was seen, read in a thread of its own."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._seen: dict[tuple[str, str, int], Tokens] = {}
        self._stop = threading.Event()
        self._http = httpx.Client(timeout=5, trust_env=False)
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)
        self._http.close()

    def sum(self) -> Tokens:
        """What all engine processes counted, each from zero at its own start."""
        return total(self._seen.copy().values())

    def _run(self) -> None:
        while not self._stop.wait(SCRAPE_SECONDS):
            try:
                engines = self._stage.run_json().get("engines", [])
            except CommandError:
                continue
            for engine in engines:
                self._scrape(engine)

    def _scrape(self, engine: Mapping[str, Any]) -> None:
        headers = {"Authorization": f"Bearer {engine['guard']}"}
        try:
            answer = self._http.get(f"{engine['url']}/metrics", headers=headers)
        except httpx.HTTPError:
            return  # not up yet, or gone
        if answer.status_code == 200:
            key = (str(engine["model"]), str(engine["replica"]), int(engine["pid"]))
            self._seen[key] = counters(answer.text)


def settlements(rows: Iterable[Mapping[str, Any]]) -> tuple[Settlement, ...]:
    """Rows of the events API as values."""
    return tuple(
        Settlement(
            row["attempt_id"],
            bool(row["billed"]),
            Tokens(row["prompt_tokens"], row["completion_tokens"]),
        )
        for row in rows
    )


def invoiced(lines: Iterable[Mapping[str, Any]]) -> Tokens:
    """How many tokens an invoice's lines bill: cached input is input."""
    sums = {"output": 0, "input": 0}
    for line in lines:
        sums["output" if line["kind"] == "output" else "input"] += int(line["quantity"])
    return Tokens(sums["input"], sums["output"])


def months(first: date, last: date) -> list[str]:
    """The months of a demo, which may run over midnight on the last of a month."""
    return sorted({first.strftime("%Y-%m"), last.strftime("%Y-%m")})


def read(client: Client, stage: Stage, watch: Watch | None, *, asked: int, **at: Any) -> Readings:
    """Everything the closing needs, as the platform tells it now.

    `at`: `answered` (requests), `first` and `last` (UTC days of the demo)."""
    first: date = at["first"]
    last: date = at["last"]
    served = truth(stage.data / "truth") if watch is None else None
    days = {"from": first.isoformat(), "to": last.isoformat()}
    usage = client.get("/api/v1/usage", tenant=TENANT, by="model", **days)
    rows = usage["data"]
    bills = [client.get(f"/api/v1/invoices/{m}", tenant=TENANT) for m in months(first, last)]
    lines = [line for bill in bills for line in bill["lines"]]
    conservation = client.get("/api/v1/conservation")["data"]
    return Readings(
        asked=asked,
        answered=at["answered"],
        engine=watch.sum() if watch is not None else total((served or {}).values()),
        ledger=total(Tokens(r["prompt_tokens"], r["completion_tokens"]) for r in rows),
        settlements=settlements(client.rows("/api/v1/events", "event_id")),
        truth=served,
        unshipped=int(usage["unshipped"] or 0),
        unexplained=sum(abs(int(row["unexplained"])) for row in conservation),
        unverified=sum(int(row["unverified"]) for row in conservation),
        invoiced=invoiced(lines),
        bill=Bill(
            bills[-1]["currency"],
            sum((Decimal(bill["total"]) for bill in bills), Decimal(0)),
            sum((Decimal(line["amount_exact"]) for line in lines), Decimal(0)),
        ),
        usage_exact=sum((Decimal(row["amount_exact"]) for row in rows), Decimal(0)),
    )
