"""Looking at a running platform: its models, their rates, and what was billed this month.

Money comes from billing's usage, as decimal strings, and is added as decimals.
"""

import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, NamedTuple
from urllib.parse import quote

from tidegate_operator.cli import platform
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.cli.platform import Client

POLL_SECONDS = 0.2
RESTING = frozenset({"Idle", "Suspended", "Failed"})
"""Phases in which nothing runs."""

Money = Mapping[str, Decimal]
"""An amount in each currency."""


class Seen(NamedTuple):
    """A platform at a moment. `costs`: what each model cost this month, None where unknown."""

    at: float
    base_url: str
    admin_url: str
    parts: list[dict[str, Any]]
    rows: list[dict[str, Any]]
    costs: Mapping[str, Money] | None
    unshipped: int = 0

    def document(self) -> dict[str, Any]:
        """For programs: `status --json`."""
        kept = ("name", "pid", "ops_url")
        return {
            "version": 1,
            "at": self.at,
            "base_url": self.base_url,
            "admin_url": self.admin_url,
            "parts": [{name: part.get(name) for name in kept} for part in self.parts],
            "data": [row | {"cost": _document(self.cost(row["name"]))} for row in self.rows],
            "cost": None if self.costs is None else _document(total(self.costs.values())),
            "cost_since": month(self.at),
            "unshipped": self.unshipped,
        }

    def cost(self, model: str) -> Money | None:
        """What one model cost this month; None where that is not known."""
        return None if self.costs is None else self.costs.get(model, {})


class Watching:
    """Looks at one platform again and again."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._costs: Mapping[str, Money] | None = None
        self._unshipped = 0

    def look(self, *, costs: bool = True) -> Seen:
        """The platform now; `costs`: asked for again. Raises CommandError."""
        data = self._client.platform.data
        run = platform.read_run(data) if data is not None else {}
        rows = self._client.ops("/api/v1/status")["data"]
        if costs:
            self._ask_costs()
        base, admin = str(run.get("base_url", "")), str(run.get("admin_url", ""))
        parts = run.get("parts", [])
        return Seen(time.time(), base, admin, parts, rows, self._costs, self._unshipped)

    def _ask_costs(self) -> None:
        try:
            tenants = [row["name"] for row in self._client.rows("/api/v1/tenants", "id")]
            asked = {"by": "model", "from": month(time.time())}
            found = [self._client.get("/api/v1/usage", tenant=one, **asked) for one in tenants]
        except CommandError:
            return  # billing is away: what was known before stays on the screen
        self._costs = by_model(row for answer in found for row in answer["data"])
        self._unshipped = max((answer.get("unshipped", 0) for answer in found), default=0)


def month(now: float) -> str:
    """The first day of the month of `now`, in UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-01")


def by_model(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Decimal]]:
    """What each model cost, from rows of billing's usage."""
    found: dict[str, dict[str, Decimal]] = {}
    for row in rows:
        if row.get("amount_exact") is None:
            continue
        money = found.setdefault(str(row["model"]), {})
        currency = str(row["currency"])
        money[currency] = money.get(currency, Decimal(0)) + Decimal(row["amount_exact"])
    return found


def total(costs: Iterable[Money]) -> dict[str, Decimal]:
    """The sum, in each currency."""
    found: dict[str, Decimal] = {}
    for money in costs:
        for currency, amount in money.items():
            found[currency] = found.get(currency, Decimal(0)) + amount
    return found


def exact(amount: Decimal) -> str:
    """An amount in full, never with an exponent."""
    text = f"{amount:f}"
    return text.rstrip("0").rstrip(".") or "0" if "." in text else text


def money_words(money: Money | None) -> str:
    """An amount for people: `0.000016 USD`; a dash where it is not known."""
    if money is None:
        return "-"
    return " + ".join(f"{exact(amount)} {name}" for name, amount in sorted(money.items())) or "0"


def ask(client: Client, model: str, what: str) -> dict[str, Any]:
    """Asks for `wake` or `sleep`; the model's row right after. Raises CommandError."""
    return client.ops(f"/api/v1/models/{quote(model, safe='/')}/{what}", "POST")


def until(client: Client, row: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The model's row once it serves, is at zero, or has failed. Raises CommandError."""
    while True:
        rows = client.ops("/api/v1/status")["data"]
        now = next((one for one in rows if one["deployment"] == row["deployment"]), None)
        if now is None:
            raise CommandError(f"{row['name']} is gone")
        if settled(now, what) or _failure(now) not in {"", _failure(row)}:
            return dict(now)
        time.sleep(POLL_SECONDS)


def settled(row: Mapping[str, Any], what: str) -> bool:
    """Whether what was asked for is done, or somebody else wanted the opposite since."""
    if what == "wake":
        return bool(row["ready"]) or not row["desired"]
    gone = not row["ready"] and row["phase"] in RESTING and not row["draining"]
    return gone or bool(row["desired"])


def _failure(row: Mapping[str, Any]) -> str:
    """The start that failed for good, if the last one did."""
    failure = row.get("failure") or {}
    return str(failure.get("start_id", "")) if failure.get("final") else ""


def words(row: Mapping[str, Any]) -> str:
    """A model's row as one line."""
    found = [f"{row['name']}: {row['phase']}", str(row.get("phase_detail") or "")]
    return ", ".join(word for word in found if word)


def _document(money: Money | None) -> list[dict[str, str]] | None:
    if money is None:
        return None
    return [{"currency": name, "amount_exact": exact(money[name])} for name in sorted(money)]
