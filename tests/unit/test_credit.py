"""Credit: what burns in which order, and that nothing is ever made or lost."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tidegate_billing import credit
from tidegate_billing.credit import CreditError, Entry, Grant, Purse


def grant(
    name: str, amount: int, *, priority: int = 0, starts: int = 0, expires: int | None = None,
    created: int = 0,
) -> Grant:  # fmt: skip
    return Grant(name, amount, "USD", priority, starts, expires, created)


def purse_of(*grants: Grant, now: int = 0) -> Purse:
    purse = Purse("USD")
    for one in grants:
        purse, _ = credit.issue(purse, one, now)
    return purse


def burned(purse: Purse, *amounts: int, now: int = 0) -> Purse:
    for amount in amounts:
        purse = credit.apply(purse, credit.burn(purse, amount, now).entries)
    return purse


def rests(purse: Purse) -> dict[str, int]:
    return {one.id: purse.of("grant", one.id) for one in purse.grants}


def test_the_order_is_priority_then_end_then_age() -> None:
    purse = purse_of(
        grant("bought", 10, priority=5),
        grant("late", 10, priority=1, expires=900),
        grant("soon", 10, priority=1, expires=500),
        grant("old", 10, priority=5, created=-3),
        grant("never", 10, priority=1),
    )
    order = []
    for _ in range(5):
        found = credit.burn(purse, 10, 0)
        order.append(found.entries[0].grant)
        purse = credit.apply(purse, found.entries)
    assert order == ["soon", "late", "never", "old", "bought"]
    assert credit.balance(purse, 0) == 0


def test_a_burn_goes_through_several_grants_and_into_the_overdraft() -> None:
    purse = purse_of(grant("a", 5), grant("b", 7, created=1))
    found = credit.burn(purse, 15, 0)
    assert found.shortfall == 3
    assert found.entries == (
        Entry("grant", "a", -5), Entry("revenue", "a", 5),
        Entry("grant", "b", -7), Entry("revenue", "b", 7),
        Entry("overdraft", "", -3), Entry("revenue", "", 3),
    )  # fmt: skip
    assert credit.balance(credit.apply(purse, found.entries), 0) == -3


def test_a_later_grant_pays_the_overdraft_first() -> None:
    purse = burned(purse_of(grant("a", 5)), 15)
    purse, entries = credit.issue(purse, grant("b", 100, created=1), 0)
    assert credit.balance(purse, 0) == 90
    assert purse.of("overdraft") == 0
    assert purse.of("revenue", "b") == 10
    assert sum(entry.amount for entry in entries) == 0


def test_a_grant_that_starts_later_pays_when_it_starts() -> None:
    purse = burned(purse_of(grant("a", 5)), 15)
    purse, _ = credit.issue(purse, grant("b", 100, starts=50), 0)
    assert credit.balance(purse, 49) == -10
    assert credit.pay(purse, 49) == ()
    assert credit.balance(credit.apply(purse, credit.pay(purse, 50)), 50) == 90
    found = credit.burn(purse, 1, 50)  # a burn pays it, too
    assert credit.balance(credit.apply(purse, found.entries), 50) == 89


@pytest.mark.parametrize(("now", "left"), [(9, 0), (10, 7), (19, 7), (20, 0)])
def test_a_grant_is_there_from_its_start_and_gone_at_its_end(now: int, left: int) -> None:
    purse = purse_of(grant("a", 7, starts=10, expires=20))
    assert credit.balance(purse, now) == left
    assert credit.burn(purse, 7, now).shortfall == 7 - left
    moved = 0 if now < 20 else 7
    assert credit.apply(purse, credit.expire(purse, now)).of("expired", "a") == moved


def test_expiry_takes_only_the_rest_and_only_once() -> None:
    purse = burned(purse_of(grant("a", 7, expires=20), grant("b", 1, created=1)), 3)
    purse = credit.apply(purse, credit.expire(purse, 20))
    assert (purse.of("expired", "a"), purse.of("revenue", "a")) == (4, 3)
    assert credit.expire(purse, 21) == ()
    assert credit.balance(purse, 21) == 1


def test_the_next_change_is_a_start_or_an_end_that_matters() -> None:
    purse = purse_of(grant("a", 7, expires=20), grant("b", 1, starts=30, expires=40))
    assert [credit.next_change(purse, now) for now in (0, 20, 29, 30, 40)] == [20, 30, 30, 40, None]
    assert credit.next_change(burned(purse, 7), 0) == 30  # nothing is left of the first


def test_a_new_pot_begins_when_a_grant_ends() -> None:
    purse = purse_of(grant("a", 7, expires=20), grant("b", 1, starts=10, expires=40))
    assert [credit.term(purse, at) for at in (0, 19, 20, 39, 40)] == [
        *((0, 20), (0, 20), (20, 40), (20, 40), (40, credit.NEVER)),
    ]
    names = [credit.pot(purse, "acme", at) for at in (0, 19, 20, 40)]
    assert names[0] == names[1] == "credit:acme:USD:0"
    assert names[2:] == ["credit:acme:USD:20", "credit:acme:USD:40"]
    assert credit.pot(burned(purse, 7), "acme", 20) == names[2]  # whatever is left


def test_a_correction_is_the_inverse_of_a_burn() -> None:
    purse = purse_of(grant("a", 5), grant("b", 7, created=1))
    assert burned(purse, 15, -2).sums == burned(purse, 13).sums
    assert rests(burned(purse, 15, -6)) == {"a": 0, "b": 3}
    assert rests(burned(purse, 15, -15)) == {"a": 5, "b": 7}


def test_what_was_never_burned_is_not_given_back() -> None:
    purse = burned(purse_of(grant("a", 5)), 2)
    found = credit.burn(purse, -3, 0)
    assert found.shortfall == -1
    assert rests(credit.apply(purse, found.entries)) == {"a": 5}


def test_what_an_ended_grant_gets_back_is_gone_with_it() -> None:
    purse = burned(purse_of(grant("a", 5, expires=20), grant("b", 7)), 8)
    purse = credit.apply(purse, credit.expire(purse, 20))
    purse = burned(purse, -4, now=20)  # the living one first
    assert rests(purse) == {"a": 0, "b": 7}
    assert purse.of("expired", "a") == 1
    assert credit.balance(purse, 20) == 7


def test_a_refund_takes_what_is_left_and_not_more() -> None:
    purse = burned(purse_of(grant("a", 5, expires=9)), 2)
    purse = credit.apply(purse, credit.refund(purse, "a", 1, 0))
    assert (credit.balance(purse, 0), purse.of("refund", "a")) == (2, 1)
    for amount, now in ((3, 0), (0, 0), (-1, 0), (1, 9)):
        with pytest.raises(CreditError, match="allowed"):
            credit.refund(purse, "a", amount, now)
    with pytest.raises(CreditError, match="no grant"):
        credit.refund(purse, "b", 1, 0)


def test_a_void_grant_stays_void() -> None:
    purse = burned(purse_of(grant("a", 5)), 2)
    purse = credit.apply(purse, credit.void(purse, "a"))
    assert (credit.balance(purse, 0), purse.of("void", "a")) == (0, 3)
    purse = burned(purse, -2)  # a correction does not bring it back
    assert (credit.balance(purse, 0), purse.of("void", "a")) == (0, 5)
    with pytest.raises(CreditError, match="nothing is left"):
        credit.void(purse, "a")


def test_a_payment_that_was_reversed_leaves_a_debt() -> None:
    purse = burned(purse_of(grant("a", 5), grant("b", 1, created=1)), 2)
    purse = credit.apply(purse, credit.void(purse, "a", reclaim=True))
    assert (purse.of("void", "a"), purse.of("overdraft"), purse.total("revenue")) == (5, -2, 2)
    assert credit.balance(purse, 0) == -1


@pytest.mark.parametrize(
    "bad",
    [
        grant("b", 0),
        grant("b", -1),
        grant("a", 1),
        grant("b", 1, starts=5, expires=5),
        grant("b", 1)._replace(currency="EUR"),
    ],
)
def test_a_grant_that_cannot_be_is_refused(bad: Grant) -> None:
    with pytest.raises(CreditError, match="allowed"):
        credit.issue(purse_of(grant("a", 1)), bad, 0)


def test_entries_that_do_not_sum_to_zero_are_refused() -> None:
    with pytest.raises(CreditError, match="sum to"):
        credit.apply(Purse("USD"), [Entry("grant", "a", 1)])


AMOUNTS = st.integers(1, 50)


@given(st.lists(AMOUNTS, min_size=1, max_size=5), st.lists(st.integers(0, 40)), st.randoms())
def test_no_order_of_burns_matters(
    grants: list[int], burns: list[int], shuffled: random.Random
) -> None:
    purse = purse_of(*(grant(f"g{i}", n, created=i) for i, n in enumerate(grants)))
    other = burns[:]
    shuffled.shuffle(other)
    after = burned(purse, *burns)
    assert after.sums == burned(purse, *other).sums == burned(purse, sum(burns)).sums
    assert credit.balance(after, 0) == sum(grants) - sum(burns)


@given(st.lists(AMOUNTS, min_size=1, max_size=5), AMOUNTS, st.integers(0, 50))
def test_burn_and_give_back_is_one_burn(grants: list[int], burn: int, back: int) -> None:
    purse = purse_of(*(grant(f"g{i}", n, created=i) for i, n in enumerate(grants)))
    if back <= burn:
        found = {k: v for k, v in burned(purse, burn, -back).sums.items() if v}
        assert found == {k: v for k, v in burned(purse, burn - back).sums.items() if v}


class Purses(RuleBasedStateMachine):
    """Anything that may happen to a purse, in any order, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.purse = Purse("USD")
        self.now = 0
        self.cost = 0

    def move(self, entries: tuple[Entry, ...]) -> None:
        self.purse = credit.apply(self.purse, entries)

    @rule(
        amount=AMOUNTS, priority=st.integers(0, 2), wait=st.integers(-5, 5),
        lasts=st.none() | st.integers(1, 20),
    )  # fmt: skip
    def issue(self, amount: int, priority: int, wait: int, lasts: int | None) -> None:
        starts = self.now + wait
        expires = None if lasts is None else starts + lasts
        name = f"g{len(self.purse.grants)}"
        one = Grant(name, amount, "USD", priority, starts, expires, self.now)
        before = credit.balance(self.purse, self.now)
        self.purse, _ = credit.issue(self.purse, one, self.now)
        there = amount if one in credit.live(self.purse, self.now) else 0
        assert credit.balance(self.purse, self.now) == before + there

    @rule(amount=st.integers(0, 60))
    def burn(self, amount: int) -> None:
        before = credit.balance(self.purse, self.now)
        found = credit.burn(self.purse, amount, self.now)
        self.move(found.entries)
        self.cost += amount
        assert credit.balance(self.purse, self.now) == before - amount
        assert 0 <= found.shortfall <= amount

    @precondition(lambda self: self.cost > 0)
    @rule(share=st.floats(0, 1))
    def correct(self, share: float) -> None:
        amount = int(self.cost * share)
        found = credit.burn(self.purse, -amount, self.now)
        self.move(found.entries)
        self.cost -= amount
        assert found.shortfall == 0

    @rule(by=st.integers(0, 10))
    def later(self, by: int) -> None:
        self.now += by

    @rule()
    def expire(self) -> None:
        before = credit.balance(self.purse, self.now)
        self.move(credit.expire(self.purse, self.now))
        assert credit.balance(self.purse, self.now) == before

    @precondition(lambda self: self.purse.grants)
    @rule(data=st.data(), reclaim=st.booleans(), paid_back=st.booleans())
    def take(self, data: st.DataObject, reclaim: bool, paid_back: bool) -> None:
        name = data.draw(st.sampled_from(self.purse.grants)).id
        try:
            if paid_back:
                self.move(credit.refund(self.purse, name, data.draw(AMOUNTS), self.now))
            else:
                self.move(credit.void(self.purse, name, reclaim=reclaim))
        except CreditError:
            pass

    @invariant()
    def nothing_is_made_or_lost(self) -> None:
        assert sum(self.purse.sums.values()) == 0
        assert self.purse.total("issued") == -sum(one.amount for one in self.purse.grants)
        assert self.purse.total("revenue") == self.cost

    @invariant()
    def no_account_has_the_wrong_sign(self) -> None:
        for (account, _), amount in self.purse.sums.items():
            assert amount <= 0 if account in {"issued", "overdraft"} else amount >= 0

    @invariant()
    def nobody_owes_without_an_overdraft(self) -> None:
        if not self.purse.of("overdraft"):
            assert credit.balance(self.purse, self.now) >= 0


TestPurses = Purses.TestCase
