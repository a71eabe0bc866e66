"""Leases on both databases: what is lent, what comes back, and what a router's word changes."""

from decimal import Decimal

import pytest
from sqlalchemy import insert, text, update

from ledgers import Ledger
from tidegate_billing import money, pricebook
from tidegate_billing.budgeting.tables import BUDGET
from tidegate_billing.credit import Grant
from tidegate_billing.leases import BLOCKED, SECOND, TERM, Answer, Granted, Recall, Refused
from tidegate_billing.lending import desk, lender, pots, rates
from tidegate_billing.lending.said import LeaseAsk, LeaseBack, LeaseRenewal, LeaseWord
from tidegate_billing.links import ModelPricing, Pricing
from tidegate_billing.prepaid import purses
from tidegate_billing.rates import book, contract
from tidegate_billing.snapshot import Snapshots
from tidegate_billing.tables import TENANT
from tidegate_billing.tariff import Tariffs, write
from tidegate_billing.who.tables import DEFAULT

NOW = 1_800_000_000 * SECOND
POT = "credit:acme:USD:0"
MODEL = ModelPricing(deployment="d/m", model="m", owner="acme", pricing=Pricing(input_per_million="1"))  # fmt: skip


@pytest.fixture
def lent(ledger: Ledger) -> Ledger:
    """A prepaid tenant with a credit of 1.00, and two routers that have begun."""
    statement = text(
        "INSERT INTO tenant (id, created_at, organization, display_name, time_zone, revision, plan)"
        f" VALUES ('acme', 0, '{DEFAULT}', '', 'UTC', 1, 'prepaid')"
    )
    ledger(lambda connection: connection.execute(statement))
    grant(ledger, "g", "1.00")
    for router in ("a", "b"):
        begin(ledger, router, 1)
    return ledger


def grant(ledger: Ledger, name: str, amount: str, expires: int | None = None) -> None:
    one = Grant(name, money.parse(amount), "USD", 0, 0, expires, 0)
    ledger(purses.issue, "acme", one, "", "admin", NOW)


def begin(ledger: Ledger, router: str, session: int, **holds: str) -> dict[str, str]:
    """`holds`: `pot`, where it holds any."""
    held = {POT: holds["pot"]} if holds else {}
    kept = ledger(desk.heard, LeaseWord(router=router, session=session, holds=held), NOW)
    assert kept is not None
    return kept.kept


def ask(
    ledger: Ledger, router: str, need: str, least: str = "0", now: int = NOW,
    pot: str = POT, session: int = 1, recalled: bool = False,
) -> Answer:  # fmt: skip
    asked = LeaseAsk(router=router, session=session, wants={pot: (need, least)})
    return ledger(desk.ask, asked, now, routers=2, recalled=recalled)


def granted(answer: Answer, pot: str = POT) -> Decimal:
    assert isinstance(answer, Granted), answer
    return Decimal(money.plain(answer.amounts[pot]))


def free(ledger: Ledger, now: int = NOW, pot: str = POT) -> Decimal:
    places = ledger.read(lambda connection: pots.of_tenant(connection, "acme", now))
    found = {one.view.name: one.pot for one in places}
    return Decimal(money.plain(found[pot].free))


def test_what_is_lent_to_one_is_not_lent_to_another(lent: Ledger) -> None:
    mine = granted(ask(lent, "a", "0.70"))
    assert mine == Decimal("0.70")
    assert free(lent) == Decimal("0.30")
    answer = ask(lent, "b", "0.50", "0.40")
    assert isinstance(answer, Recall)
    assert answer.routers == {POT: ("a",)}
    assert isinstance(ask(lent, "b", "0.50", "0.40", recalled=True), Refused)
    assert granted(ask(lent, "b", "0.50", "0.10", recalled=True)) == Decimal("0.30")
    assert free(lent) == 0


def test_what_is_given_back_is_free(lent: Ledger) -> None:
    ask(lent, "a", "0.70")
    lent(desk.back, LeaseBack(router="a", session=1, back={POT: "0.60", "credit:no:USD:0": "1"}))
    assert free(lent) == Decimal("0.90")
    lent(desk.back, LeaseBack(router="a", session=1, back={POT: "5"}))
    assert free(lent) == 1, "never more than it had"


def test_an_old_session_has_no_word(lent: Ledger) -> None:
    ask(lent, "a", "0.70")
    assert begin(lent, "a", 2, pot="0.25") == {POT: "0.25"}
    assert free(lent) == Decimal("0.75"), "what it does not name returns"
    with pytest.raises(desk.SessionOver):
        ask(lent, "a", "0.10", session=1)
    with pytest.raises(desk.SessionOver):
        lent(desk.back, LeaseBack(router="a", session=1, back={POT: "0.25"}))
    with pytest.raises(desk.SessionOver):
        lent(desk.renew, LeaseRenewal(router="stranger", session=1), NOW)
    lent(desk.heard, LeaseWord(router="a", session=1, spent={POT: "0.25"}), NOW)
    assert free(lent) == Decimal("0.75")
    assert begin(lent, "a", 2, pot="0.25") == {POT: "0.25"}, (
        "a batch that comes twice says it twice"
    )
    assert free(lent) == Decimal("0.75")


def test_a_router_is_believed_what_it_has_spent(lent: Ledger) -> None:
    ask(lent, "a", "0.70")
    lent(desk.heard, LeaseWord(router="a", session=1, spent={POT: "0.30"}), NOW)
    assert free(lent) == Decimal("0.60"), "the balance follows the usage, which cost nothing here"


def test_a_lost_router_blocks_its_lease_for_ten_minutes(lent: Ledger) -> None:
    ask(lent, "a", "0.70")
    end = NOW + TERM
    assert isinstance(ask(lent, "b", "0.50", "0.50", now=end), Refused), (
        "nobody is left to recall from"
    )
    assert lent(desk.expire, end + BLOCKED - 1) == []
    assert lent(desk.expire, end + BLOCKED) == [(POT, "a", money.parse("0.70"))]
    assert granted(ask(lent, "b", "0.90", now=end + BLOCKED)) == Decimal("0.90")


def test_renewing_keeps_it(lent: Ledger) -> None:
    ask(lent, "a", "0.70")
    later = NOW + 20 * SECOND
    assert lent(desk.renew, LeaseRenewal(router="a", session=1), later) == {POT: TERM}
    assert lent(desk.expire, NOW + TERM + BLOCKED) == []


def test_credit_that_ends_ends_its_leases(lent: Ledger) -> None:
    end = NOW + 40 * SECOND
    grant(lent, "short", "1.00", end)
    ask(lent, "a", "1.50")
    after = f"credit:acme:USD:{end}"
    assert free(lent, pot=after) == Decimal("-0.50"), "what is lent may still be spent"
    renewed = lent(desk.renew, LeaseRenewal(router="a", session=1), NOW + 30 * SECOND)
    assert renewed == {POT: 10 * SECOND}
    assert isinstance(ask(lent, "a", "0.1", "0.1", now=end), Refused), "that pot is over"
    lent(desk.back, LeaseBack(router="a", session=1, back={POT: "1.20"}))
    assert free(lent, now=end, pot=after) == Decimal("0.70")
    assert granted(ask(lent, "a", "0.70", now=end, pot=after), after) == Decimal("0.70")


def test_a_postpaid_tenant_has_no_pot(lent: Ledger) -> None:
    statement = update(TENANT).where(TENANT.c.id == "acme").values(plan="postpaid")
    lent(lambda connection: connection.execute(statement))
    assert lent.read(lambda connection: pots.of_tenant(connection, "acme", NOW)) == []
    assert lent.read(lender.limited) == []
    assert isinstance(ask(lent, "a", "0.10", "0.10"), Refused)


def test_pots_that_nobody_has_lend_nothing(lent: Ledger) -> None:
    for name in ("credit:acme:EUR:0", "credit:nobody:USD:0", "budget:none:0", "", "a:b:c:d:e"):
        assert isinstance(ask(lent, "a", "0.10", "0.10", pot=name), Refused), name


def test_a_model_that_is_renamed_is_seen_to_cost_something_else(lent: Ledger) -> None:
    entries = [
        {"model": name, "prices": {"input": price}} for name, price in (("m", "1"), ("dear", "100"))
    ]
    document = {"name": "list", "currency": "USD", "effectiveFrom": "2020-01-01T00:00:00Z", "entries": entries}  # fmt: skip
    lent(write, book.parse(document), document, NOW)
    hub = Snapshots(1)
    desk_of = lender.Lender(lent.database, hub, lambda: NOW)

    def told(name: str) -> str:
        renamed = ModelPricing(deployment="d/m", model=name, owner="acme", pricing=Pricing())
        lent(pricebook.apply, [renamed], now=NOW)
        desk_of.repriced()
        lent.run(desk_of.tell())
        return hub.rates["", "d/m"].input

    assert (told("m"), told("dear")) == ("0.000001", "0.0001")


def test_a_batch_that_comes_late_and_twice_takes_nothing_back(lent: Ledger) -> None:
    assert begin(lent, "a", 5) == {}
    ask(lent, "a", "0.70", session=5)
    assert begin(lent, "a", 5) == {POT: "0.7"}, "as it is by now"
    assert free(lent) == Decimal("0.30")


def test_amounts_of_small_currencies_fit(lent: Ledger) -> None:
    for number in range(60):
        grant(lent, f"rich-{number}", "900000000")
    assert granted(ask(lent, "a", "40000000000")) == 40_000_000_000
    assert free(lent) == 14_000_000_001


def test_rates_are_the_dearest_and_each_tenants_own(lent: Ledger) -> None:
    def views() -> dict[str, tuple[str, str, str, str]]:
        found = lent.read(lambda c: rates.views(c, ["acme", "other"], Tariffs(), NOW))
        return {one.tenant: (one.currency, one.input, one.output, one.request) for one in found}

    lent(pricebook.apply, [MODEL], now=0)
    assert views() == {"": ("USD", "0.000001", "0", "0")}
    tiers = [{"upTo": 1000, "unitPrice": "3", "flatFee": "0.5"}, {"unitPrice": "2"}]
    entry = {
        "model": "m",
        "prices": {
            "input": "1", "cachedInput": "4", "output": {"kind": "graduated", "tiers": tiers},
            "request": {"kind": "package", "size": 10, "price": "0.2"},
        },
    }  # fmt: skip
    document = {"name": "list", "currency": "USD", "effectiveFrom": "2020-01-01T00:00:00Z", "entries": [entry]}  # fmt: skip
    lent(write, book.parse(document), document, NOW)
    assert views() == {"": ("USD", "0.000004", "0.000003", "0.72")}
    own = {"tenant": "acme", "currency": "USD", "effectiveFrom": "2020-01-01T00:00:00Z", "discount": "50"}  # fmt: skip
    lent(write, contract.parse(own), own, NOW)
    assert views()["acme"] == ("USD", "0.000002", "0.0000015", "0.36")


def test_a_budgets_next_window_is_lent_ahead_and_for_itself(lent: Ledger) -> None:
    plan = update(TENANT).where(TENANT.c.id == "acme").values(plan="postpaid")
    lent(lambda connection: connection.execute(plan))
    whole = money.halves(money.parse("2"))
    daily = insert(BUDGET).values(
        id="b", tenant="acme", scope="tenant", subject="acme", kind="day", zone="UTC",
        limit_nano=whole.nano, limit_atto=whole.rest, currency="USD", hard=True,
        thresholds="[]", created=0,
    )  # fmt: skip
    lent(lambda connection: connection.execute(daily))
    day = 86_400 * SECOND
    end = (NOW // day + 1) * day
    today, tomorrow = f"budget:b:{end - day}", f"budget:b:{end}"
    assert lent.read(lender.limited) == ["acme"]
    assert granted(ask(lent, "a", "1.5", now=end - 61 * SECOND, pot=today), today) == Decimal("1.5")
    early = ask(lent, "a", "1", "1", now=end - 61 * SECOND, pot=tomorrow)
    assert isinstance(early, Refused), "more than a minute ahead"
    soon = end - SECOND
    assert free(lent, soon, today) == Decimal("0.5")
    assert granted(ask(lent, "b", "2", now=soon, pot=tomorrow), tomorrow) == 2, "all of it"
    over = ask(lent, "b", "0.5", "0.5", now=end, pot=today)
    assert isinstance(over, Refused), "that day is over"
    lent(desk.heard, LeaseWord(router="a", session=1, spent={today: "1.5"}), end)
    assert free(lent, end, tomorrow) == 0
