"""Makes usage, sends it as badly as a network and a clock can, and knows what it must come to.

A process of its own that imports nothing of ours: what it prints at its end is worked out by
fractions from what it made, and shares no code with what is tested. It speaks the usage link's JSON to the
socket of a real billing process, which others kill meanwhile; a batch counts as sent when it was
answered with 200, and is sent again until it was.

What it does to usage: batches out of order, in several cuts, twice at once and again much later;
a clock that steps back and forth by minutes and months; prices that change in between; copies of
known events with other content; events without a price.

    generator.py --url http://127.0.0.1:8081 --token T --events 20000 --seed 1

On stdout: a line `progress N` after every batch that was answered, last the truth as JSON.
"""

import argparse
import http.client
import json
import random
import sys
import threading
import time
import urllib.parse
from collections import defaultdict
from fractions import Fraction

MILLION = 10**6
ROUTERS = 4
TENANTS = 12
CHANGING = ("red", "green", "blue")
PRICES = ["0.1", "0.15", "2.5", "0.000000000001", "0.037", "12", "0"]
STEADY = {"inputPerMillion": "0.3", "outputPerMillion": "0.7"}
MONTH_MS = 30 * 86_400_000


class Truth:
    """What was made, added up."""

    def __init__(self) -> None:
        self.billed: dict[tuple[str, str, str], list[Fraction | int]] = defaultdict(
            lambda: [0, 0, 0, 0, Fraction(0)]
        )
        self.parked: dict[str, int] = defaultdict(int)
        self.unbilled = 0
        self.events = 0
        self.conflicts = 0


class Link:
    """The socket of billing, which may be dead at any moment."""

    def __init__(self, url: str, token: str) -> None:
        parts = urllib.parse.urlsplit(url)
        self.host, self.port = parts.hostname or "", parts.port or 0
        self.headers = {"authorization": f"Bearer {token}", "content-type": "application/json"}
        self.connection: http.client.HTTPConnection | None = None

    def once(self, method: str, path: str, content: bytes) -> dict | None:
        """One try. None: nobody knows what became of it."""
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
            self.connection.request(method, path, content, self.headers)
            answer = self.connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            if self.connection is not None:
                self.connection.close()
            self.connection = None
            return None
        if answer.status == 200:
            return json.loads(body)
        if answer.status < 500:
            raise SystemExit(f"{method} {path}: {answer.status} {body[:300]!r}")
        return None

    def send(self, method: str, path: str, content: object) -> dict:
        """Try until it is answered."""
        encoded = json.dumps(content).encode()
        while True:
            answer = self.once(method, path, encoded)
            if answer is not None:
                return answer
            time.sleep(0.02)


def uuid7(rng: random.Random, ms: int) -> str:
    value = ms << 80 | 7 << 76 | rng.getrandbits(12) << 64 | 2 << 62 | rng.getrandbits(62)
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def month(ms: int) -> str:
    return time.strftime("%Y-%m", time.gmtime(ms // 1000))


class Prices:
    """Price books as the generator has set them: by version, decimal strings."""

    def __init__(self, link: Link, rng: random.Random) -> None:
        self.link, self.rng = link, rng
        self.versions: dict[int, dict[str, str]] = {}
        self.current: dict[str, int] = {}
        self.set_between = (0, 0)
        """The steady price came into force between these two moments, in milliseconds."""

    def change(self) -> None:
        """Set prices of all models anew; the steady one's stay."""
        models = []
        for name in CHANGING:
            pricing = {
                "currency": "USD",
                "inputPerMillion": self.rng.choice(PRICES),
                "outputPerMillion": self.rng.choice(PRICES),
            }
            if self.rng.random() < 0.6:
                pricing["cachedInputPerMillion"] = self.rng.choice(PRICES)
            models.append({"name": name, "pricing": pricing})
        models.append({"name": "steady", "pricing": {"currency": "USD", **STEADY}})
        before = int(time.time() * 1000) - 1
        answers = self.link.send(
            "PUT",
            "/internal/models",
            [
                {
                    "deployment": f"ns/{model['name']}",
                    "model": model["name"],
                    "owner": "ns",
                    "pricing": model["pricing"],
                }
                for model in models
            ],
        )
        if not self.versions:
            self.set_between = (before, int(time.time() * 1000) + 1)
        for model, answer in zip(models, answers, strict=True):
            self.current[model["name"]] = answer["price_version"]
            self.versions[answer["price_version"]] = model["pricing"]


def cost(event: dict, pricing: dict[str, str]) -> Fraction:
    """What an event costs, from the words of the price list."""
    per = {name: Fraction(pricing[name]) / MILLION for name in pricing if name != "currency"}
    cached = 0
    if event.get("cached_known") and "cachedInputPerMillion" in per:
        cached = min(event["cached_tokens"], event["prompt_tokens"])
    total = (event["prompt_tokens"] - cached) * per["inputPerMillion"]
    total += event["completion_tokens"] * per["outputPerMillion"]
    if cached:
        total += cached * per["cachedInputPerMillion"]
    return total


class Maker:
    """Makes one router's events, and books each of them once."""

    def __init__(self, seed: int, router: int, prices: Prices, truth: Truth) -> None:
        self.rng = random.Random(f"{seed}/{router}")
        self.router, self.prices, self.truth = router, prices, truth
        self.offset = 0

    def clock(self) -> int:
        """Milliseconds, by a clock that now and then is set wrong, by minutes or months."""
        if self.rng.random() < 0.002:
            self.offset = self.rng.choice(
                [0, 0, -90_000, 40_000, -MONTH_MS, MONTH_MS, -14 * MONTH_MS]
            )
        at = int(time.time() * 1000) + self.offset
        low, high = self.prices.set_between
        return at if not low <= at <= high else high + 1

    def event(self) -> dict:
        rng, at = self.rng, self.clock()
        name = rng.choice([*CHANGING, "steady", "steady-by-time", "bare"])
        model = name.removesuffix("-by-time")
        prompt = rng.choice([0, 1, rng.randrange(5000), rng.randrange(10**7)])
        event = {
            "attempt_id": uuid7(rng, at),
            "kind": "settlement",
            "request_id": uuid7(rng, at),
            "tenant": f"tenant-{rng.randrange(TENANTS)}",
            "project": "default",
            "key_id": f"key_{rng.randrange(30)}",
            "model": model,
            "deployment": f"ns/{model}",
            "endpoint": "/v1/chat/completions",
            "started_at": rng.randrange(2**50),
            "finished_at": rng.randrange(2**50),
            "replica": f"pod-{rng.randrange(5)}/0",
            "client_request_id": rng.choice(["", "näme ✓", "x" * 100]),
            "prompt_tokens": prompt,
            "cached_tokens": rng.randrange(prompt + 3),
            "cached_known": rng.random() < 0.7,
            "completion_tokens": rng.randrange(3000),
            "reasoning_tokens": rng.randrange(100),
            "source": "engine",
            "outcome": "completed",
            "billed": rng.random() < 0.9,
        }
        if name == model and name != "bare":
            event["price_version"] = self.prices.current[name]
        if not event["billed"]:
            event["reason"] = "probe"
        self.book(event, at, name)
        return event

    def book(self, event: dict, at: int, name: str) -> None:
        truth = self.truth
        truth.events += 1
        if not event["billed"]:
            truth.unbilled += 1
            return
        by_time = name == "steady-by-time"
        if name == "bare" or (by_time and at <= self.prices.set_between[0]):
            truth.parked[event["tenant"]] += 1
            return
        pricing = STEADY if by_time else self.prices.versions[event["price_version"]]
        row = truth.billed[event["tenant"], event["model"], month(at)]
        row[0] += 1
        row[1] += event["prompt_tokens"]
        row[2] += event["cached_tokens"]
        row[3] += event["completion_tokens"]
        row[4] += cost(event, pricing)


class Router(threading.Thread):
    """Sends one journal's batches in a bad order, some of them often."""

    def __init__(
        self, number: int, maker: Maker, link: Link, events: int, lock: threading.Lock
    ) -> None:
        super().__init__(daemon=True)
        self.number, self.maker, self.link, self.events, self.lock = (
            number,
            maker,
            link,
            events,
            lock,
        )
        self.rng = random.Random(f"send {number} {events}")
        self.old: list[dict] = []
        self.failed: str = ""

    def run(self) -> None:
        try:
            self.work()
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            self.failed = repr(error)

    def work(self) -> None:
        pending: list[dict] = []
        made, record = 0, 1
        while made < self.events or pending:
            while made < self.events and len(pending) < 6:
                size = min(self.rng.choice([1, 7, 60, 250, 500]), self.events - made)
                with self.lock:
                    events = [self.maker.event() for _ in range(size)]
                batch = {
                    "journal": f"j{self.number}",
                    "first": record,
                    "last": record + size - 1,
                    "events": events,
                }
                made += size
                record += size
                pending.append(batch)
            batch = pending.pop(self.rng.randrange(len(pending)))
            answer = self.link.once("POST", "/internal/usage", json.dumps(batch).encode())
            if answer is None:
                pending.append(batch)
                time.sleep(0.01)
                continue
            assert not answer["conflicts"], answer
            print(f"progress {len(batch['events'])}", flush=True)
            self.again(batch)

    def again(self, batch: dict) -> None:
        """Replay what is acknowledged, whole, in other cuts, or with other content."""
        self.old = [*self.old[-40:], batch]
        if self.rng.random() < 0.1:
            parts = [*self.rng.choice(self.old)["events"], *self.rng.choice(self.old)["events"]]
            self.rng.shuffle(parts)
            self.link.send("POST", "/internal/usage", {**batch, "events": parts[:500]})
        if self.rng.random() < 0.02:
            other = dict(self.rng.choice(batch["events"]))
            other["completion_tokens"] += 1
            answer = self.link.send("POST", "/internal/usage", {**batch, "events": [other]})
            assert len(answer["conflicts"]) == 1, answer
            with self.lock:
                self.maker.truth.conflicts += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--token", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    truth, lock = Truth(), threading.Lock()
    prices = Prices(Link(given.url, given.token), random.Random(given.seed))
    prices.change()
    share = -(-given.events // ROUTERS)
    routers = [
        Router(n, Maker(given.seed, n, prices, truth), Link(given.url, given.token), share, lock)
        for n in range(ROUTERS)
    ]
    for router in routers:
        router.start()
    changed = 0
    while any(router.is_alive() for router in routers):
        time.sleep(0.05)
        with lock:
            if truth.events - changed > given.events // 9:
                prices.change()
                changed = truth.events
    wrong = [router.failed for router in routers if router.failed]
    if wrong:
        sys.exit("; ".join(wrong))
    rows = [[*key, *row[:4], str(row[4] * 10**18)] for key, row in sorted(truth.billed.items())]
    told = {
        "events": truth.events,
        "billed": rows,
        "parked": truth.parked,
        "unbilled": truth.unbilled,
        "conflicts": truth.conflicts,
        "versions": len(prices.versions),
    }
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
