"""Credit in the ledger: what usage costs is what purses lose, entry by entry, on both databases."""

import datetime as dt
import random
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from ledgers import Ledger
from tidegate_billing import adjust, credit, ingest, money, pricebook, tariff
from tidegate_billing import ledger as questions
from tidegate_billing.adjust import Scope, Why
from tidegate_billing.credit import Grant
from tidegate_billing.ingest import Memory, prepare
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.prepaid import purses
from tidegate_billing.rates import book as books
from tidegate_billing.usage import Usage, uuid7
from tidegate_billing.who.tables import DEFAULT

START = int(dt.datetime(2026, 11, 3, tzinfo=dt.UTC).timestamp() * 1000)
HOUR = 3_600_000
NOW = (START + 10 * HOUR) * 1000
UNIT = money.ATTO
MODEL = ModelPricing(deployment="d/m", model="m", owner="o", pricing=Pricing(input_per_million="1"))
PERIOD = {"first": "2026-11-01", "last": "2026-11-30"}


@pytest.fixture
def priced(ledger: Ledger) -> Ledger:
    ledger(pricebook.apply, [MODEL], now=0)
    for tenant in ("acme", "other"):
        statement = text(
            "INSERT INTO tenant (id, created_at, organization, display_name, time_zone, revision)"
            f" VALUES ('{tenant}', 0, '{DEFAULT}', '', 'UTC', 1)"
        )
        ledger(lambda c, statement=statement: c.execute(statement))
    return ledger


def grant(name: str, amount: str, **more: Any) -> Grant:
    fields: dict[str, Any] = {
        "currency": "USD", "priority": 0, "starts": 0, "expires": None, "created": 0,
    }  # fmt: skip
    return Grant(id=name, amount=money.parse(amount), **(fields | more))


def give(ledger: Ledger, one: Grant, tenant: str = "acme") -> None:
    ledger(purses.issue, tenant, one, "a note", "admin", NOW)


def use(
    ledger: Ledger, *tokens: int, at: int = START, tenant: str = "acme", first: int = 1
) -> None:
    events = [
        Usage(
            attempt_id=uuid7((at + n) * 10**6), kind="settlement", request_id="r", tenant=tenant,
            project="p", key_id="k", model="m", deployment="d/m", endpoint="chat", started_at=1,
            prompt_tokens=count, outcome="completed", source="engine", billed=True,
        )
        for n, count in enumerate(tokens)
    ]  # fmt: skip
    batch = UsageBatch(journal="j", first=first, last=first + len(events) - 1, events=events)
    ledger(ingest.ingest, [prepare(batch)], Memory(), NOW)


def held(ledger: Ledger, tenant: str = "acme") -> credit.Purse:
    return ledger(purses.purse, tenant, "USD")


def balance(ledger: Ledger, at: int = NOW) -> str:
    return money.plain(credit.balance(held(ledger), at))


def sound(ledger: Ledger) -> None:
    """Every movement sums to zero, sums are those of entries, and revenue is what usage cost."""
    assert ledger(purses.drift) == []
    rows = ledger.read(
        lambda c: c.execute(
            text("SELECT sum(amount_nano), sum(amount_atto) FROM credit_entry GROUP BY movement")
        ).all()
    )
    assert all(money.whole(int(nano), int(atto)) == 0 for nano, atto in rows)
    (row, *_) = ledger(questions.usage, tenant="acme", by=[], **PERIOD) or [{"amount_exact": "0"}]
    assert money.plain(held(ledger).total("revenue")) == row["amount_exact"]


def test_usage_burns_grants_in_their_order_and_what_is_over_is_owed(priced: Ledger) -> None:
    give(priced, grant("later", "1"))
    give(priced, grant("soon", "0.5", expires=(START + 20 * HOUR) * 1000))
    give(priced, grant("first", "0.25", priority=-1))
    use(priced, 300_000)
    assert [money.plain(held(priced).of("grant", n)) for n in ("first", "soon", "later")] == [
        "0", "0.45", "1",
    ]  # fmt: skip
    use(priced, 500_000, 1_000_000, first=2)
    assert balance(priced) == "-0.05"
    assert money.plain(held(priced).of("overdraft")) == "-0.05"
    sound(priced)
    give(priced, grant("more", "2"))
    assert balance(priced) == "1.95"
    sound(priced)


def test_usage_of_before_a_grant_or_after_its_end_is_not_its(priced: Ledger) -> None:
    give(priced, grant("g", "1", starts=(START + HOUR) * 1000, expires=(START + 2 * HOUR) * 1000))
    use(priced, 100_000, at=START + 2 * HOUR)
    use(priced, 100_000, at=START + 2 * HOUR - 1, first=2)
    assert money.plain(held(priced).of("grant", "g")) == "0.8"  # it paid what was owed, too
    assert balance(priced) == "0"
    assert priced(purses.expire, (START + 2 * HOUR) * 1000 + purses.LATE - 1) == 0
    assert priced(purses.expire, (START + 2 * HOUR) * 1000 + purses.LATE) == 1
    assert money.plain(held(priced).of("expired", "g")) == "0.8"
    assert priced(purses.expire, NOW) == 0
    sound(priced)


def test_a_tenant_without_a_grant_has_no_entries(priced: Ledger) -> None:
    give(priced, grant("g", "1"), tenant="other")
    use(priced, 100_000)
    count = text("SELECT count(*) FROM credit_entry WHERE tenant = 'acme'")
    assert priced.read(lambda c: c.execute(count).scalar()) == 0


def test_replays_burn_nothing_again(priced: Ledger) -> None:
    give(priced, grant("g", "1"))
    event = Usage(
        attempt_id=uuid7(START * 10**6), kind="settlement", request_id="r", tenant="acme",
        project="p", key_id="k", model="m", deployment="d/m", endpoint="chat", started_at=1,
        prompt_tokens=250_000, outcome="completed", source="engine", billed=True,
    )  # fmt: skip
    batch = UsageBatch(journal="j", first=1, last=1, events=[event])
    for _ in range(3):
        priced(ingest.ingest, [prepare(batch), prepare(batch)], Memory(), NOW)
    assert balance(priced) == "0.75"


def test_corrections_give_back_and_releases_take(priced: Ledger) -> None:
    give(priced, grant("a", "0.2"))
    give(priced, grant("b", "1", priority=1))
    use(priced, 300_000)
    assert balance(priced) == "0.9"
    document = {
        "name": "list", "currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z",
        "entries": [{"model": "m", "prices": {"input": "0.5", "output": "0"}}],
    }  # fmt: skip
    priced(tariff.write, books.parse(document), document, NOW)
    scope = Scope("2026-11", "2026-11", tenant="acme")
    assert priced(adjust.rerate, scope, Why("rerated", "admin", "cheaper"), NOW) == 1
    assert balance(priced) == "1.05"
    assert [money.plain(held(priced).of("grant", n)) for n in "ab"] == ["0.05", "1"]
    sound(priced)
    kinds = text("SELECT DISTINCT kind, actor FROM credit_entry ORDER BY kind")
    assert [tuple(row) for row in priced.read(lambda c: c.execute(kinds).all())] == [
        ("issue", "admin"), ("rerated", "admin"), ("usage", "system"),
    ]  # fmt: skip


def test_many_events_in_any_cut_leave_the_same_purse(priced: Ledger) -> None:
    rng = random.Random(3)
    give(priced, grant("a", "0.7", expires=(START + 5 * HOUR) * 1000))
    give(priced, grant("b", "0.4", priority=2))
    sizes = [rng.randrange(90_000) for _ in range(30)]
    first = 1
    while sizes:
        cut = rng.randrange(1, 7)
        use(priced, *sizes[:cut], at=START + first * HOUR // 12, first=first)
        sizes, first = sizes[cut:], first + cut
        sound(priced)
    purse = held(priced)
    assert sum(purse.sums.values()) == 0
    cost = purse.total("revenue")
    assert purse.of("overdraft") == min(0, money.parse("1.1") - cost)


@pytest.mark.parametrize("table", ["credit_grant", "credit_entry"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET note = 'x'"])
def test_credit_is_append_only(priced: Ledger, table: str, statement: str) -> None:
    give(priced, grant("g", "1"))
    with pytest.raises(IntegrityError, match="append-only"):
        priced(lambda c: c.execute(text(statement.format(table))))


def test_a_sum_that_was_tampered_with_is_found(priced: Ledger) -> None:
    give(priced, grant("g", "1"))
    damage = text("UPDATE credit_sum SET amount_atto = amount_atto + 1 WHERE account = 'grant'")
    priced(lambda c: c.execute(damage))
    assert priced(purses.drift) == [("acme", "USD", "grant", "g")]


def test_a_correction_that_lowers_a_bill_takes_nothing(priced: Ledger) -> None:
    use(priced, 10_000_000)  # before there is a purse
    give(priced, grant("g", "100"))
    document = {
        "name": "list", "currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z",
        "entries": [{"model": "m", "prices": {"input": "0.4", "output": "0"}}],
    }  # fmt: skip
    priced(tariff.write, books.parse(document), document, NOW)
    scope = Scope("2026-11", "2026-11", tenant="acme")
    assert priced(adjust.rerate, scope, Why("rerated", "admin", "cheaper"), NOW) == 1
    assert balance(priced) == "100"


def test_a_grant_that_begins_later_pays_what_is_owed(priced: Ledger) -> None:
    day = 24 * HOUR * 1000
    give(priced, grant("g0", "1"))
    use(priced, 5_000_000)
    give(priced, grant("g1", "10", starts=NOW + day, expires=NOW + 3 * day))
    assert priced(purses.pay, NOW) == 0
    assert priced(purses.pay, NOW + day) == 1
    assert balance(priced, NOW + day) == "6"
    assert priced(purses.pay, NOW + day) == 0
    sound(priced)


def test_what_nobody_looked_at_in_time_is_paid_before_it_expires(priced: Ledger) -> None:
    day = 24 * HOUR * 1000
    give(priced, grant("g0", "1"))
    use(priced, 5_000_000)
    give(priced, grant("g1", "10", starts=NOW + day, expires=NOW + 3 * day))
    assert priced(purses.expire, NOW + 30 * day) == 1
    purse = held(priced)
    assert money.plain(purse.of("expired", "g1")) == "6"
    assert purse.of("overdraft") == 0
    sound(priced)
