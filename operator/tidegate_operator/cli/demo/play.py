"""The course of a demo: ask, wait for zero, ask again, then close the books."""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from datetime import UTC, date, datetime
from decimal import Decimal
from threading import Event, Lock
from typing import Any

from tidegate_operator.cli import platform
from tidegate_operator.cli.demo import readings, resources
from tidegate_operator.cli.demo.ask import Asker
from tidegate_operator.cli.demo.closing import Readings, Tokens, gaps, shares
from tidegate_operator.cli.demo.stage import Stage
from tidegate_operator.cli.demo.story import Story
from tidegate_operator.cli.failure import CommandError

QUESTION = "What is the capital of France?"
ZERO_SECONDS = 120.0
"""How long a model may take from its last answer back to zero."""
CLOSE_SECONDS = 20.0
"""How long the last records may take to the ledger once every engine is gone."""
POLL_SECONDS = 0.1
STAGGER_SECONDS = 1.0
"""Between the first wakes of two models: starts in step would only measure one another."""


def blank(engine: str) -> dict[str, Any]:
    """The result of a demo of which nothing is known yet."""
    none = Tokens()._asdict()
    return {
        "version": 1,
        "ok": False,
        "error": None,
        "engine": engine,
        "model": "",
        "requests": 0,
        "held": 0,
        "cold_start_seconds": [],
        "first_token_seconds": [],
        "own_share_ms": shares([])._asdict(),
        "engine_tokens": none,
        "ledger_tokens": none,
        "unbilled_tokens": none,
        "bill": {"currency": "USD", "amount": "0", "amount_exact": "0"},
    }


class Play:
    """One demo. Its counts are kept by whichever thread asked."""

    def __init__(self, engine: str, wakes: int, cache: str | None, story: Story) -> None:
        self._engine = engine
        self._wakes = wakes
        self._cache = cache
        self._story = story
        self._models = resources.names(engine, wakes)
        self._lock = Lock()
        self._over = Event()
        self._asked = 0
        self._answered = 0
        self._held = 0
        self._first: list[float] = []
        self._stage: Stage

    def run(self) -> dict[str, Any]:
        """The whole demo; its result. Raises CommandError where it cannot go on."""
        first = _today()
        with ExitStack() as stack:
            self._story.note(f"starting the platform, {', '.join(self._models)} at zero replicas")
            text = resources.text(self._engine, self._models)
            self._stage = Stage(text, self._cache, self._story.event)
            stack.enter_context(self._stage)
            watch = None
            if self._engine == "vllm":
                watch = stack.enter_context(readings.Watch(self._stage))
            client = stack.enter_context(platform.Client(platform.local(self._stage.data)))
            self._ask_all()
            self._story.waiting("waiting for zero replicas, and for the ledger")
            for model in self._models:
                self._wait_zero(model)
            return self._close(client, watch, first)

    def _ask_all(self) -> None:
        base_url = str(self._stage.run_json()["base_url"])
        asker = Asker(base_url, self._stage.secret("api-key"), self._engine)
        try:
            if len(self._models) == 1:
                self._wake(asker, self._models[0], range(self._wakes), self._story.token)
            else:
                self._ask_in_turns(asker)
        finally:
            self._over.set()
            asker.close()

    def _ask_in_turns(self, asker: Asker) -> None:
        count = len(self._models)
        pool = ThreadPoolExecutor(count)
        jobs: list[Future[None]] = [
            pool.submit(self._wake_later, n, asker, model, range(n, self._wakes, count))
            for n, model in enumerate(self._models)
        ]
        try:
            for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
                job.result()
        finally:
            self._over.set()
            # Not waited for: what still hangs in a request ends with the platform.
            pool.shutdown(wait=False, cancel_futures=True)

    def _wake_later(self, n: int, asker: Asker, model: str, turns: range) -> None:
        """The n-th model's wakes, a little after the one before it; nobody reads their words."""
        self._over.wait(n * STAGGER_SECONDS)
        self._wake(asker, model, turns, _silent)

    def _wake(self, asker: Asker, model: str, turns: range, token: Callable[[str], None]) -> None:
        """Wake one model, turn by turn; after the very first, ask it once more while it is warm."""
        for turn in turns:
            self._wait_zero(model)
            if self._over.is_set():
                return
            self._story.waiting(f"asking {model}: {QUESTION!r} (wake {turn + 1}, held)")
            self._count(held=1)
            answer = self._told(lambda: asker.stream(model, QUESTION, token).first)
            self._story.note(f"\n  first token after {answer:.2f} s")
            with self._lock:
                self._answered += 1
                self._first.append(round(answer, 4))
            if turn == 0:
                self._count(held=0)
                took = self._told(lambda: asker.whole(model, "And of Italy?").took)
                self._story.note(f"asked again while warm: whole answer after {took:.2f} s")
                with self._lock:
                    self._answered += 1

    def _count(self, *, held: int) -> None:
        with self._lock:
            self._asked += 1
            self._held += held

    def _told(self, ask: Callable[[], float]) -> float:
        """Ask; where it fails, add what the platform said of it."""
        try:
            return ask()
        except CommandError as error:
            words = self._stage.last_words()
            raise CommandError(f"{error}{words}") from None

    def _wait_zero(self, model: str) -> None:
        """Until no engine of the model is left. Raises CommandError after ZERO_SECONDS."""
        deadline = time.monotonic() + ZERO_SECONDS
        while True:
            engines = self._stage.run_json().get("engines", [])
            if not any(one["model"] in {model, f"default/{model}"} for one in engines):
                return
            if not self._stage.alive:
                raise CommandError(f"the platform ended{self._stage.last_words()}")
            if time.monotonic() > deadline:
                raise CommandError(f"{model} did not go back to zero in {ZERO_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _close(
        self, client: platform.Client, watch: readings.Watch | None, first: date
    ) -> dict[str, Any]:
        """Read both sides until they agree, or until CLOSE_SECONDS are over."""
        deadline = time.monotonic() + CLOSE_SECONDS
        while True:
            read = readings.read(
                client,
                self._stage,
                watch,
                asked=self._asked,
                answered=self._answered,
                first=first,
                last=_today(),
            )
            wrong = gaps(read)
            starts = client.ops("/api/v1/cold-starts")["data"]
            if not wrong or time.monotonic() > deadline:
                return self._result(read, wrong, starts)
            time.sleep(POLL_SECONDS)

    def _result(
        self, read: Readings, wrong: list[str], starts: list[Mapping[str, Any]]
    ) -> dict[str, Any]:
        return blank(self._engine) | {
            "ok": not wrong,
            "error": "; ".join(wrong) or None,
            "model": ",".join(self._models),
            "requests": self._asked,
            "held": self._held,
            "cold_start_seconds": [
                round(float(row["forwarded_at"]) - float(row["held_at"]), 4) for row in starts
            ],
            "first_token_seconds": self._first,
            "own_share_ms": shares(float(row["own_share_ms"]) for row in starts)._asdict(),
            "engine_tokens": read.engine._asdict(),
            "ledger_tokens": read.ledger._asdict(),
            "unbilled_tokens": read.unbilled._asdict(),
            "bill": {
                "currency": read.bill.currency,
                "amount": plain(read.bill.amount),
                "amount_exact": plain(read.bill.exact),
            },
        }


def plain(value: Decimal) -> str:
    """A decimal without an exponent."""
    return format(value, "f")


def _silent(_: str) -> None:
    """Words of many models at once are nobody's reading."""


def _today() -> date:
    return datetime.now(UTC).date()
