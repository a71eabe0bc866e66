"""Whether the numbers of a demo close. Pure: readings in, a verdict with its reasons out.

What engines generated was either billed or is known, by reason, to be unbilled. Both sides are
counted by different parties: the engines (their truth files, or their own counters) and the
ledger. Sums alone could hide a lost settlement behind a doubled one, so where the engine's truth
names attempts, each attempt is held against its settlement as well.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import NamedTuple


class Tokens(NamedTuple):
    """Prompt and completion tokens of a set of attempts."""

    prompt: int = 0
    completion: int = 0

    def plus(self, other: "Tokens") -> "Tokens":
        """The sum of both kinds."""
        return Tokens(self.prompt + other.prompt, self.completion + other.completion)


class Settlement(NamedTuple):
    """What the ledger says of one attempt."""

    attempt_id: str
    billed: bool
    tokens: Tokens


class Bill(NamedTuple):
    """An invoice's totals: `amount` rounded, `exact` not."""

    currency: str = ""
    amount: Decimal = Decimal(0)
    exact: Decimal = Decimal(0)


class Readings(NamedTuple):
    """Everything that was read once all was quiet. `truth`: tokens by attempt, where the engine
    tells them apart (sim); None where it does not. `invoiced`: what the bill's lines count.
    `usage_exact`: the unrounded amount of the usage API."""

    asked: int
    answered: int
    engine: Tokens
    ledger: Tokens
    settlements: tuple[Settlement, ...]
    truth: Mapping[str, Tokens] | None
    unshipped: int
    unexplained: int
    unverified: int
    invoiced: Tokens
    bill: Bill
    usage_exact: Decimal

    @property
    def unbilled(self) -> Tokens:
        """Tokens of settlements that nobody pays for: readiness probes, retries, orphans."""
        return total(s.tokens for s in self.settlements if not s.billed)


def total(parts: Iterable[Tokens]) -> Tokens:
    """The sum of many."""
    result = Tokens()
    for part in parts:
        result = result.plus(part)
    return result


def gaps(readings: Readings) -> list[str]:
    """Every way in which the numbers do not close, in words. Empty: they close."""
    return [*_unfinished(readings), *_sums(readings), *_bill(readings), *_attempts(readings)]


def _unfinished(r: Readings) -> Iterable[str]:
    if r.answered != r.asked:
        yield f"{r.asked - r.answered} of {r.asked} requests were not answered"
    if r.unshipped:
        yield f"{r.unshipped} records have not reached the ledger"
    if r.unexplained:
        yield f"conservation leaves {r.unexplained} tokens unexplained"
    if r.unverified:
        yield f"conservation leaves {r.unverified} tokens unverified"


def _sums(r: Readings) -> Iterable[str]:
    known = r.ledger.plus(r.unbilled)
    for kind, generated, told in zip(Tokens._fields, r.engine, known, strict=True):
        if generated != told:
            yield f"{kind} tokens: the engines counted {generated}, the ledger knows {told}"
    billed = [s.tokens for s in r.settlements if s.billed]
    if total(billed) != r.ledger:
        yield f"the usage API bills {tuple(r.ledger)}, its settlements say {tuple(total(billed))}"
    if len(billed) != r.asked:
        yield f"{r.asked} requests were made, {len(billed)} settlements are billed"


def _bill(r: Readings) -> Iterable[str]:
    if r.invoiced != r.ledger:
        yield f"the invoice bills {tuple(r.invoiced)} tokens, the ledger {tuple(r.ledger)}"
    if r.bill.exact != r.usage_exact:
        yield f"the invoice sums to {r.bill.exact}, the usage API to {r.usage_exact}"


def _attempts(r: Readings) -> Iterable[str]:
    counts = Counter(s.attempt_id for s in r.settlements)
    for attempt_id, count in counts.items():
        if count > 1:
            yield f"attempt {attempt_id} is settled {count} times"
    if r.truth is None:
        return
    for attempt_id in r.truth.keys() - counts.keys():
        yield f"attempt {attempt_id} was served and never settled"
    for settlement in r.settlements:
        served = r.truth.get(settlement.attempt_id, Tokens())
        if served != settlement.tokens:
            yield (
                f"attempt {settlement.attempt_id}: the engine served {tuple(served)} tokens,"
                f" its settlement says {tuple(settlement.tokens)}"
            )


class Shares(NamedTuple):
    """Our own share of cold starts in milliseconds: how many, and how they are spread."""

    n: int = 0
    p50: float = 0.0
    p99: float = 0.0
    max: float = 0.0


def shares(milliseconds: Iterable[float]) -> Shares:
    """Nearest-rank percentiles: each is a value that was seen."""
    values = sorted(milliseconds)
    if not values:
        return Shares()

    def rank(percent: int) -> float:
        return values[max(0, -(-len(values) * percent // 100) - 1)]

    return Shares(len(values), rank(50), rank(99), values[-1])
