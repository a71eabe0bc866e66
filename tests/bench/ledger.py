"""The ledger's bench: usage through the real process's socket, beside plain inserts in the same run.

    python tests/bench/ledger.py [--events N] [--database sqlite|postgresql] [--json]

PostgreSQL runs with fsync on. A tenth of what is sent is sent again. `plain` is asyncpg's
`executemany` of the same rows into a table with `event`'s keys and indexes, in transactions of the
same size, by one connection: what a program can do that neither checks, nor rates, nor sums. Then
a month of one tenant's usage is asked for, over HTTP, and its median taken.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import httpx
import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "lib"))

from billing_process import ADMIN, INTERNAL, Billing
from postgres import Server
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.usage import Usage, uuid7

MONTH_NS = 30 * 86_400 * 10**9
TENANTS, KEYS, MODELS = 40, 5, 8
BATCH = 500
ROUTERS = 8


def models() -> list[ModelPricing]:
    pricing = Pricing(
        input_per_million="0.10", output_per_million="0.40", cached_input_per_million="0.02"
    )
    return [
        ModelPricing(deployment=f"team/m{n}", model=f"m{n}", owner="team", pricing=pricing)
        for n in range(MODELS)
    ]


def event(rng: random.Random, at_ns: int) -> Usage:
    tenant, model = rng.randrange(TENANTS), rng.randrange(MODELS)
    prompt = rng.randrange(1, 4000)
    return Usage(
        attempt_id=uuid7(at_ns),
        kind="settlement",
        request_id=uuid7(at_ns),
        tenant=f"tenant-{tenant}",
        project="default",
        key_id=f"key_{tenant:04x}{rng.randrange(KEYS):04x}",
        model=f"m{model}",
        deployment=f"team/m{model}",
        endpoint="/v1/chat/completions",
        started_at=at_ns // 1000,
        finished_at=at_ns // 1000 + rng.randrange(10**7),
        replica=f"0c9d7f9e-8a7b-4c5d-9e1f-{model:012d}/0",
        prompt_tokens=prompt,
        cached_tokens=rng.randrange(prompt),
        cached_known=True,
        completion_tokens=rng.randrange(1, 2000),
        source="engine",
        outcome="completed",
        price_version=model + 1,
        billed=True,
    )


def batches(events: int, router: int, span_ns: int) -> Iterator[tuple[bytes, int]]:
    """A router's batches, encoded, in the order of time; every tenth is sent twice."""
    rng = random.Random(router)
    start = time.time_ns() - span_ns
    step = span_ns // max(1, events)
    first = 1
    for base in range(0, events, BATCH):
        made = [event(rng, start + (base + n) * step) for n in range(min(BATCH, events - base))]
        batch = UsageBatch(
            journal=f"router-{router}", first=first, last=first + len(made) - 1, events=made
        )
        first += len(made)
        content = msgspec.json.encode(batch)
        yield content, len(made)
        if (base // BATCH) % 10 == 9:
            yield content, len(made)


def send(billing: Billing, events: int, span_ns: int) -> float:
    """Send from ROUTERS connections; events a second, replays included, while sending.

    Making events costs more than keeping them: it is done ahead, a slice at a time, off the clock."""
    streams = [batches(events // ROUTERS, router, span_ns) for router in range(ROUTERS)]
    clients = [httpx.Client(headers=INTERNAL, timeout=60) for _ in range(ROUTERS)]
    url = billing.url("/internal/usage")
    sent, spent = 0, 0.0

    def ship(client: httpx.Client, contents: list[bytes]) -> None:
        for content in contents:
            client.post(url, content=content).raise_for_status()

    with ThreadPoolExecutor(ROUTERS) as pool:
        while True:
            slices = []
            for stream in streams:
                taken = [one for _, one in zip(range(24), stream, strict=False)]
                slices.append([content for content, _ in taken])
                sent += sum(count for _, count in taken)
            if not any(slices):
                break
            begun = time.perf_counter()
            list(pool.map(ship, clients, slices))
            spent += time.perf_counter() - begun
    for client in clients:
        client.close()
    return sent / spent


async def plain(url: str, events: int) -> float:
    """Rows a second by `executemany`, in transactions of the same size."""
    rng = random.Random(0)
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE plain (LIKE event INCLUDING DEFAULTS INCLUDING INDEXES)")
    names = [*Usage.__struct_fields__, "attempt_month", "event_id", "digest", "day"]
    marks = ", ".join(f"${n}" for n in range(1, len(names) + 1))
    statement = f"INSERT INTO plain ({', '.join(names)}) VALUES ({marks})"
    made = [event(rng, time.time_ns()) for _ in range(events)]
    rows = [
        (*msgspec.structs.astuple(one), "2026-11", one.event_id, f"{n:064x}", "2026-11-01")
        for n, one in enumerate(made)
    ]
    begun = time.perf_counter()
    for base in range(0, len(rows), BATCH):
        async with connection.transaction():
            await connection.executemany(statement, rows[base : base + BATCH])
    took = time.perf_counter() - begun
    await connection.execute("DROP TABLE plain")
    await connection.close()
    return events / took


def month_ms(billing: Billing) -> dict[str, float]:
    """Milliseconds of one tenant's month, by model, key and day, on a connection that is open."""
    took = []
    rows = 0
    asked = {"from": "2020-01-01", "to": "2035-01-01", "by": "model,key,day"}
    with httpx.Client(base_url=billing.url(""), headers=ADMIN, timeout=60) as client:
        for tenant in [f"tenant-{n}" for n in range(TENANTS)]:
            begun = time.perf_counter()
            answer = client.get("/api/v1/usage", params={"tenant": tenant, **asked})
            took.append((time.perf_counter() - begun) * 1000)
            rows = len(answer.json()["data"])
    return {"median": round(statistics.median(took), 1), "max": round(max(took), 1), "rows": rows}


def cpu_seconds(parent: int) -> float:
    """What a process and its children have used, those that ended included (Linux)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if parent in {int(fields[1]), int(stat.parent.name)}:
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(kind: str, events: int, span_ns: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder:
        server = Server(durable=True) if kind == "postgresql" else None
        billing = None
        try:
            url = f"sqlite:///{folder}/ledger.db"
            if server is not None:
                server.start()
                url = server.create("ledger")
            billing = Billing(Path(folder), url, server)
            billing.start()
            for number in range(TENANTS):
                httpx.post(
                    billing.url("/api/v1/tenants"),
                    json={"name": f"tenant-{number}"},
                    headers=ADMIN,
                ).raise_for_status()
            billing.put("/internal/models", models())
            assert billing.process is not None
            parts = {"billing": billing.process.pid}
            if server is not None:
                parts["database"] = server.pid
            before = {name: cpu_seconds(pid) for name, pid in parts.items()}
            rate = send(billing, events, span_ns)
            used = {
                name: round((cpu_seconds(pid) - before[name]) * 1e6 / events / 1.1, 1)
                for name, pid in parts.items()
            }
            result: dict[str, object] = {
                "database": kind,
                "events": events,
                "events_per_second": round(rate),
                "cpu_us_per_event": used,
            }
            if server is not None:
                beside = asyncio.run(plain(url, min(events, 100_000)))
                result |= {"plain_per_second": round(beside), "of_plain": round(rate / beside, 2)}
            kept = billing.query("SELECT count(*) FROM event")[0][0]
            assert int(kept) == events // ROUTERS * ROUTERS, kept
            return {**result, "usage_of_a_month_ms": month_ms(billing)}
        finally:
            if billing is not None:
                billing.close()
            if server is not None:
                server.remove()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--database", choices=["sqlite", "postgresql"], action="append")
    parser.add_argument("--span", choices=["now", "month"], default="now", help="when they were")
    arguments = parser.parse_args()
    span = MONTH_NS if arguments.span == "month" else 60 * 10**9
    for kind in arguments.database or ["sqlite", "postgresql"]:
        print(json.dumps(measure(kind, arguments.events, span)), flush=True)


if __name__ == "__main__":
    main()
