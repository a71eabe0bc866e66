"""Budgets in the ledger: what counts in which window, and what is told, on both databases."""

import datetime as dt
import random
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, func, insert, select, text, update

from ledgers import Ledger
from tidegate_billing import adjust, budgets, ingest, money, pricebook, rollup, tariff
from tidegate_billing.adjust import Scope, Why
from tidegate_billing.budgeting import credit_end, rows, spent, sums
from tidegate_billing.budgeting.tables import BUDGET, BUDGET_ALERT, BUDGET_SPENT
from tidegate_billing.credit import Grant
from tidegate_billing.ingest import Memory, prepare
from tidegate_billing.links import ModelPricing, Pricing, UsageBatch
from tidegate_billing.prepaid import purses
from tidegate_billing.rates import book as books
from tidegate_billing.tables import ROLLUP_DAY, ROLLUP_HOUR, ROLLUP_MINUTE, TENANT
from tidegate_billing.usage import Usage, uuid7
from tidegate_billing.webhooks.tables import WEBHOOK_DELIVERY, WEBHOOK_ENDPOINT, WEBHOOK_MESSAGE
from tidegate_billing.who.tables import DEFAULT

UNIT = money.ATTO
MODEL = ModelPricing(deployment="d/m", model="m", owner="o", pricing=Pricing(input_per_million="1"))
BERLIN = "Europe/Berlin"


def at(*parts: int) -> int:
    """Microseconds of a UTC time."""
    return int(dt.datetime(*parts, tzinfo=dt.UTC).timestamp()) * 1_000_000  # type: ignore[arg-type, misc]


NOW = at(2026, 11, 3, 12)


@pytest.fixture
def priced(ledger: Ledger) -> Ledger:
    ledger(pricebook.apply, [MODEL], now=0)
    for tenant in ("acme", "other"):
        ledger(
            lambda c, tenant=tenant: c.execute(
                insert(TENANT).values(
                    id=tenant, created_at=0, organization=DEFAULT, time_zone=BERLIN
                )
            )
        )
    return ledger


def budget(ledger: Ledger, name: str = "b", **more: Any) -> budgets.Budget:
    """Make a budget of 1 USD a day, unless `more` says otherwise."""
    fields: dict[str, Any] = {
        "tenant": "acme", "scope": "tenant", "subject": "acme", "kind": "day", "currency": "USD",
        "limit": "1", "thresholds": [50, 80, 100], "created": 0,
    }  # fmt: skip
    fields |= more
    nano, rest = money.halves(money.parse(fields.pop("limit")))
    fields["thresholds"] = msgspec.json.encode(fields["thresholds"]).decode()
    fields |= {"id": name, "limit_nano": nano, "limit_atto": rest}
    ledger(lambda c: c.execute(insert(BUDGET).values(fields)))
    return found(ledger, name)


def found(ledger: Ledger, name: str) -> budgets.Budget:
    live = ledger(rows.live, ["acme", "other"])
    return next(one for one in live if one.id == name)


def endpoint(ledger: Ledger, name: str = "e", tenant: str = "acme", **more: Any) -> None:
    values = {"id": name, "tenant": tenant, "url": "https://x.test", "secrets": "[]",
              "created_at": 0, **more}  # fmt: skip
    ledger(lambda c: c.execute(insert(WEBHOOK_ENDPOINT).values(values)))


def events(moment: int, *tokens: int, **more: Any) -> list[Usage]:
    fields: dict[str, Any] = {"tenant": "acme", "project": "p", "key_id": "k", **more}
    return [
        Usage(
            attempt_id=uuid7((moment + n * 1000) * 1000), kind="settlement", request_id="r",
            model="m", deployment="d/m", endpoint="chat", started_at=1, prompt_tokens=count,
            outcome="completed", source="engine", billed=True, **fields,
        )
        for n, count in enumerate(tokens)
    ]  # fmt: skip


def send(ledger: Ledger, *usage: Usage) -> None:
    batch = UsageBatch(journal="j", first=1, last=len(usage), events=list(usage))
    ledger(ingest.ingest, [prepare(batch)], Memory(), NOW)


def use(ledger: Ledger, moment: int, *tokens: int, **more: Any) -> None:
    send(ledger, *events(moment, *tokens, **more))


def held(ledger: Ledger, one: budgets.Budget, moment: int) -> str:
    start = budgets.window(one.kind, one.zone, moment).start
    return money.plain(ledger(spent.spent, one, start))


def told(ledger: Ledger) -> list[tuple[str, str]]:
    """Kinds of messages, and the threshold or the balance that they name."""
    query = select(WEBHOOK_MESSAGE.c.type, WEBHOOK_MESSAGE.c.body).order_by(WEBHOOK_MESSAGE.c.seq)
    read = [(kind, msgspec.json.decode(body)["data"]) for kind, body in ledger(_all, query)]
    return [(kind, str(data.get("threshold", data.get("balance")))) for kind, data in read]


def _all(connection: Any, query: Any) -> Any:
    return connection.execute(query).all()


def count(ledger: Ledger, table: Any) -> int:
    (row,) = ledger(_all, select(func.count()).select_from(table))
    return int(row[0])


REACHED = "budget.threshold_reached"


def test_each_scope_counts_its_own(priced: Ledger) -> None:
    whole = budget(priced, "t")
    project = budget(priced, "p", scope="project", subject="web")
    key = budget(priced, "k", scope="key", subject="key_1")
    euro = budget(priced, "e", currency="EUR")
    others = budget(priced, "o", tenant="other", subject="other")
    use(priced, NOW, 100_000, 200_000, project="web", key_id="key_2")
    use(priced, NOW + 60_000_000, 50_000, project="x", key_id="key_1")
    use(priced, NOW, 10_000, tenant="other", project="web", key_id="key_3")
    spent_of = [held(priced, one, NOW) for one in (whole, project, key, euro, others)]
    assert spent_of == ["0.35", "0.3", "0.05", "0", "0.01"]
    assert priced(spent.drift) == []
    assert [one.id for one in priced(spent.hard, "acme")] == []


def test_windows_are_of_the_zone_at_a_months_end_and_where_clocks_change(priced: Ledger) -> None:
    days, months = budget(priced, "d"), budget(priced, "m", kind="month")
    # 31 October ends in Berlin at 23:00 UTC; 25 October had 25 hours, from 22:00 UTC on.
    use(priced, at(2026, 10, 31, 22, 59), 1)
    use(priced, at(2026, 10, 31, 23, 0), 10)
    use(priced, at(2026, 10, 24, 21, 59), 100)
    use(priced, at(2026, 10, 24, 22, 0), 1000)
    use(priced, at(2026, 10, 25, 22, 59), 10_000)
    use(priced, at(2026, 10, 25, 23, 0), 100_000)
    assert held(priced, days, at(2026, 10, 25, 12)) == "0.011"
    assert held(priced, days, at(2026, 10, 26, 12)) == "0.1"
    assert held(priced, days, at(2026, 10, 24, 12)) == "0.0001"
    assert held(priced, months, at(2026, 10, 20)) == "0.111101"
    assert held(priced, months, at(2026, 11, 20)) == "0.00001"
    assert priced(spent.drift) == []


def test_a_row_that_is_missing_is_added_up_from_the_widest_rollups(priced: Ledger) -> None:
    rng = random.Random(7)
    kinds = ("day", "week", "month", "quarter", "year", "total")
    for zone in (BERLIN, "Asia/Kathmandu", "America/St_Johns"):
        for kind in kinds:
            budget(priced, f"{kind}-{zone}", kind=kind, zone=zone, limit="1000")
    for n in range(30):
        use(priced, at(2026, 1, 1) + rng.randrange(340 * 86_400) * 1_000_000, 1000 + n)
    assert priced(spent.drift) == []
    live = list(priced(rows.live, ["acme"]))
    assert len(live) == 18
    kept = {one: held(priced, one, at(2026, 6, 1)) for one in live}
    priced(lambda c: c.execute(delete(BUDGET_SPENT)))
    assert {one: held(priced, one, at(2026, 6, 1)) for one in live} == kept
    year = next(one for one in live if one.id == "year-Asia/Kathmandu")
    parts = sums.parts(budgets.window("year", year.zone, at(2026, 6, 1)))
    widths = {table: last - first for table, first, last in parts}
    assert {t.name for t in widths} == {t.name for t in (ROLLUP_DAY, ROLLUP_HOUR, ROLLUP_MINUTE)}
    assert sum(last - first for _, first, last in parts) < 500


def test_thresholds_are_told_once_over_events_batches_replays_and_a_rebuild(
    priced: Ledger,
) -> None:
    endpoint(priced)
    one = budget(priced)
    sent = events(NOW, 300_000, 150_000)
    send(priced, *sent)
    assert told(priced) == []
    more = events(NOW + 60_000_000, 450_000)
    send(priced, *more)
    assert told(priced) == [(REACHED, "50"), (REACHED, "80")]
    for _ in range(3):
        send(priced, *sent, *more)
    priced(rollup.rebuild)
    assert count(priced, BUDGET_SPENT) == 0
    send(priced, *sent, *more)
    use(priced, NOW + 120_000_000, 10_000)
    assert held(priced, one, NOW) == "0.91"
    assert len(told(priced)) == 2
    use(priced, NOW + 180_000_000, 1_000_000)
    assert told(priced)[2:] == [(REACHED, "100")]
    assert count(priced, WEBHOOK_DELIVERY) == count(priced, BUDGET_ALERT) == 3
    use(priced, NOW + 86_400_000_000, 600_000)  # tomorrow's window tells anew
    assert told(priced)[3:] == [(REACHED, "50")]
    assert priced(spent.drift) == []


def test_a_correction_moves_what_was_spent_and_tells_no_threshold_again(priced: Ledger) -> None:
    one = budget(priced)
    use(priced, NOW, 850_000)
    assert len(told(priced)) == 2
    for price, left in (("0.5", "0.425"), ("1", "0.85"), ("2", "1.7")):
        document = {
            "name": "list", "currency": "USD", "effectiveFrom": "2026-01-01T00:00:00Z",
            "entries": [{"model": "m", "prices": {"input": price, "output": "0"}}],
        }  # fmt: skip
        priced(tariff.write, books.parse(document), document, NOW)
        scope = Scope("2026-11", "2026-11", tenant="acme")
        assert priced(adjust.rerate, scope, Why("rerated", "admin", "x"), NOW) == 1
        assert held(priced, one, NOW) == left
        assert priced(spent.drift) == []
    assert told(priced) == [(REACHED, "50"), (REACHED, "80"), (REACHED, "100")]


def test_a_zone_that_changes_there_and_back_loses_nothing(priced: Ledger) -> None:
    budget(priced)
    use(priced, NOW, 100_000)

    def move(zone: str) -> None:
        priced(lambda c: c.execute(update(TENANT).values(time_zone=zone)))

    move("Asia/Tokyo")
    use(priced, NOW + 1_000_000, 20_000)
    move(BERLIN)
    assert held(priced, found(priced, "b"), NOW) == "0.12"
    move("Asia/Tokyo")
    assert held(priced, found(priced, "b"), NOW) == "0.12"
    assert count(priced, BUDGET_SPENT) == 2
    assert priced(spent.drift) == []


def test_what_was_over_before_a_budget_was_made_is_not_told(priced: Ledger) -> None:
    one = budget(priced, created=NOW)
    use(priced, NOW - 86_400_000_000, 5_000_000)
    assert told(priced) == []
    use(priced, NOW, 900_000)
    assert len(told(priced)) == 2
    priced(lambda c: c.execute(update(BUDGET).values(limit_nano=money.NANO // 2)))
    priced(spent.review, found(priced, one.id), NOW)
    priced(spent.review, found(priced, one.id), NOW)
    assert told(priced)[2:] == [(REACHED, "100")]


def test_a_removed_budget_counts_and_tells_nothing(priced: Ledger) -> None:
    budget(priced, hard=True)
    assert [one.id for one in priced(spent.hard, "acme")] == ["b"]
    priced(lambda c: c.execute(update(BUDGET).values(removed_at=NOW)))
    use(priced, NOW, 900_000)
    assert told(priced) == []
    assert priced(spent.hard, "acme") == []


def test_only_endpoints_that_want_it_and_are_there_get_a_message(priced: Ledger) -> None:
    endpoint(priced, "all")
    endpoint(priced, "wants", events=f'["{REACHED}"]')
    endpoint(priced, "other-kind", events='["credit.low"]')
    endpoint(priced, "disabled", disabled_at=1)
    endpoint(priced, "removed", removed_at=1)
    endpoint(priced, "foreign", tenant="other")
    budget(priced, thresholds=[50])
    use(priced, NOW, 900_000)
    made = priced(_all, select(WEBHOOK_DELIVERY.c.endpoint).order_by(WEBHOOK_DELIVERY.c.seq))
    assert [name for (name,) in made] == ["all", "wants"]


def test_a_row_that_was_tampered_with_is_found(priced: Ledger) -> None:
    one = budget(priced)
    use(priced, NOW, 100_000)
    priced(lambda c: c.execute(text("UPDATE budget_spent SET atto = atto + 1")))
    (drift,) = priced(spent.drift)
    assert (drift.budget, drift.kept - drift.computed) == (one.id, 1)
    assert priced(spent.drift, at(2030, 1, 1)) == []


def test_more_than_a_column_of_nano_units_holds_is_no_trouble(priced: Ledger) -> None:
    document = {
        "name": "list", "currency": "IRR", "effectiveFrom": "2026-01-01T00:00:00Z",
        "entries": [{"model": "m", "prices": {"input": "900000", "output": "0"}}],
    }  # fmt: skip
    priced(tariff.write, books.parse(document), document, NOW)
    one = budget(priced, kind="year", currency="IRR", limit="999999999")
    for day in range(24):
        use(priced, NOW + day * 86_400_000_000, *[1_000_000] * 500, key_id=f"k{day}")
    assert held(priced, one, NOW) == "10800000000"
    assert len(told(priced)) == 3
    assert priced(spent.drift) == []
    priced(lambda c: c.execute(delete(BUDGET_SPENT)))
    assert held(priced, one, NOW) == "10800000000"


def test_usage_of_a_clock_that_is_wrong_stops_nothing(priced: Ledger) -> None:
    live = [budget(priced, kind, kind=kind) for kind in ("day", "year", "total")]
    for moment in (5_000_000, at(9891, 12, 31), at(9950, 1, 1), at(9999, 12, 31, 23, 59)):
        use(priced, moment, 1000)
    assert [held(priced, one, 5_000_000) for one in live] == ["0.001", "0.001", "0.002"]
    assert [held(priced, one, at(9891, 12, 31)) for one in live] == ["0.001", "0.001", "0.002"]
    assert priced(spent.drift) == []
    priced(lambda c: c.execute(delete(BUDGET_SPENT)))
    assert held(priced, live[2], NOW) == "0.002"


def give(ledger: Ledger, name: str, amount: str, **more: Any) -> None:
    fields: dict[str, Any] = {
        "currency": "USD", "priority": 0, "starts": 0, "expires": None, "created": 0, **more,
    }  # fmt: skip
    ledger(purses.issue, "acme", Grant(id=name, amount=money.parse(amount), **fields), "", "a", NOW)


def test_credit_is_told_low_and_gone_once_for_each_filling(priced: Ledger) -> None:
    give(priced, "g1", "1")
    use(priced, NOW, 890_000)
    assert told(priced) == []
    use(priced, NOW + 1_000_000, 10_000)
    use(priced, NOW + 2_000_000, 10_000)
    assert told(priced) == [("credit.low", "0.1")]
    use(priced, NOW + 3_000_000, 100_000)
    use(priced, NOW + 4_000_000, 100_000)
    assert told(priced)[1:] == [("credit.exhausted", "-0.01")]
    give(priced, "g2", "1", created=1)
    use(priced, NOW + 5_000_000, 2_000_000)
    assert told(priced)[2:] == [("credit.exhausted", "-1.11")]


def test_credit_that_ends_by_time_is_told(priced: Ledger) -> None:
    give(priced, "g", "1", expires=NOW + 1_000_000)
    priced(credit_end.tell, NOW)
    assert told(priced) == []
    for moment in (NOW + 1_000_000, NOW + 2_000_000):
        priced(credit_end.tell, moment)
    assert told(priced) == [("credit.exhausted", "0")]
    late = NOW + 1_000_000 + purses.LATE
    assert priced(purses.expire, late) == 1
    priced(credit_end.tell, late)
    assert len(told(priced)) == 1
