"""Leases: routers together never hold more than there is, and what they lose comes back."""

from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tidegate_billing import leases
from tidegate_billing.leases import (
    BLOCKED,
    RECALL,
    SECOND,
    TERM,
    Granted,
    Lease,
    Pot,
    Pots,
    Recall,
    Refused,
    Want,
)

POT = "credit"


def lent(
    pots: Pots, router: str, need: int, *, now: int = 0, routers: int = 4, pot: str = POT
) -> tuple[Pots, int]:
    pots, answer = leases.ask(pots, router, {pot: Want(need, need)}, now, routers=routers)
    assert isinstance(answer, Granted), answer
    assert answer.ends == {pot: now + TERM}
    return pots, answer.amounts[pot]


def pot_of(balance: int, **held: int) -> dict[str, Pot]:
    return {POT: Pot(balance, {name: Lease(n, 0, TERM) for name, n in held.items()})}


def test_four_routers_get_shares_of_one_size() -> None:
    pots: Pots = pot_of(1000)
    amounts = []
    for router in "abcd":
        pots, amount = lent(pots, router, 10)
        amounts.append(amount)
    assert amounts == [125, 109, 95, 83]
    assert pots[POT].free == 588


def test_a_busy_router_gets_more_with_each_question_and_a_quiet_one_does_not_sit_on_much() -> None:
    pots: Pots = pot_of(10**9)
    amounts = []
    for _ in range(4):
        pots, amount = lent(pots, "a", 10)
        amounts.append(amount)
    assert amounts == [160, 160, 320, 640]


def test_near_the_end_each_gets_what_it_needs() -> None:
    pots: Pots = pot_of(80)
    for turn in range(8):
        pots, amount = lent(pots, "abcd"[turn % 4], 10)
        assert amount == 10
    assert pots[POT].free == 0


def test_others_are_asked_to_give_back_before_a_no() -> None:
    pots: Pots = pot_of(100, a=60, b=30, c=10)
    wants = {POT: Want(20, 5)}
    same, answer = leases.ask(pots, "a", wants, 7, routers=3)
    assert answer == Recall({POT: ("b", "c")}, 7 + RECALL)
    assert same == pots
    pots = leases.give_back(pots, "b", POT, 12)
    pots, answer = leases.ask(pots, "a", wants, 8, routers=3, recalled=True)
    assert isinstance(answer, Granted)
    assert answer.amounts == {POT: 12}  # less than it needs, more than it can do with
    pots, answer = leases.ask(pots, "a", wants, 9, routers=3, recalled=True)
    assert answer == Refused({POT: 0})


def test_nobody_is_asked_who_has_nothing_or_is_not_there() -> None:
    gone = Lease(50, 0, 5)
    pots: Pots = {POT: Pot(50, {"gone": gone, "spent": Lease(9, 9, TERM)})}
    _, answer = leases.ask(pots, "a", {POT: Want(1, 1)}, 5, routers=2)
    assert answer == Refused({POT: 0})


def test_a_recall_that_cannot_help_is_not_made() -> None:
    pots: Pots = {**pot_of(100, a=60, b=40), "budget": Pot(3)}
    _, answer = leases.ask(pots, "a", {POT: Want(90, 41)}, 0, routers=2)
    assert answer == Refused({POT: 0})
    _, answer = leases.ask(pots, "a", {POT: Want(90, 40)}, 0, routers=2)
    assert isinstance(answer, Recall)
    wants = {POT: Want(20, 5), "budget": Want(20, 5)}
    _, answer = leases.ask(pots, "a", wants, 0, routers=2)
    assert answer == Refused({POT: 0, "budget": 3})


def test_a_balance_that_fell_under_what_is_lent_is_recalled() -> None:
    pots: Pots = leases.put(pot_of(100, a=60, b=30), POT, 50, 10 * TERM)
    assert leases.overlent(pots, 0) == {POT: ("a", "b")}
    assert leases.overlent(pots, TERM) == {}
    _, answer = leases.ask(pots, "b", {POT: Want(1, 1)}, 0, routers=2, recalled=True)
    assert answer == Refused({POT: 0})
    pots, kept = leases.returned(pots, "a", {POT: 60}, TERM)
    assert kept == {POT: 20}
    assert pots[POT].free == 0
    assert leases.overlent(pots, TERM) == {}


def test_a_question_ahead_of_need_bothers_nobody() -> None:
    _, answer = leases.ask(pot_of(100, b=95), "a", {POT: Want(6, 0)}, 0, routers=2, ahead=True)
    assert answer == Refused({POT: 5})
    _, answer = leases.ask(pot_of(100, b=95), "a", {POT: Want(5, 0)}, 0, routers=2, ahead=True)
    assert isinstance(answer, Granted)


def test_several_pots_give_all_or_nothing() -> None:
    pots: Pots = {POT: Pot(1000), "budget": Pot(5)}
    wants = {POT: Want(10, 10), "budget": Want(10, 6)}
    same, answer = leases.ask(pots, "a", wants, 0, routers=1)
    assert (same, answer) == (pots, Refused({"budget": 5}))
    pots, answer = leases.ask(pots, "a", {**wants, "budget": Want(10, 5)}, 0, routers=1)
    assert isinstance(answer, Granted)
    assert answer.amounts == {POT: 160, "budget": 5}


def test_a_pot_that_is_not_there_or_over_lends_nothing() -> None:
    pots: Pots = {POT: Pot(1000, until=50)}
    _, answer = leases.ask(pots, "a", {"other": Want(1, 1)}, 0, routers=1)
    assert answer == Refused({"other": 0})
    _, answer = leases.ask(pots, "a", {POT: Want(1, 1)}, 50, routers=1)
    assert answer == Refused({POT: 0})
    pots, answer = leases.ask(pots, "a", {POT: Want(1, 1)}, 49, routers=1)
    assert isinstance(answer, Granted)
    assert answer.ends == {POT: 50}
    assert leases.renew(pots, "a", 10)[1] == {POT: 50}
    assert leases.renew(pots, "a", 50)[1] == {}


def test_usage_moves_money_from_lent_to_burned() -> None:
    pots: Pots = leases.consume(pot_of(100, a=30), "a", POT, 10)
    assert (pots[POT].balance, pots[POT].outstanding, pots[POT].free) == (90, 20, 70)
    pots = leases.consume(pots, "a", POT, 25)  # a prompt was longer than estimated
    assert (pots[POT].balance, pots[POT].outstanding, pots[POT].free) == (65, 0, 65)
    pots = leases.consume(pots, "b", POT, 5)  # it has no lease
    assert pots[POT].free == 60


def test_what_a_router_spent_is_its_word_and_what_it_costs_is_ours() -> None:
    pots: Pots = leases.consume(pot_of(100, a=30), "a", POT, 6)  # it thought 10
    assert pots[POT].outstanding == 24
    pots = leases.agree(pots, "a", {POT: 10, "other": 5})
    assert (pots[POT].balance, pots[POT].outstanding, pots[POT].free) == (94, 20, 74)
    assert leases.agree(pots, "b", {POT: 10}) == pots


def test_a_lost_lease_is_blocked_and_then_comes_back() -> None:
    pots: Pots = pot_of(100, a=60, b=10)
    pots, ends = leases.renew(pots, "b", TERM)
    assert ends == {POT: 2 * TERM}
    pots, back = leases.expire(pots, TERM + BLOCKED - 1)
    assert (back, pots[POT].free) == ([], 30)
    pots, back = leases.expire(pots, TERM + BLOCKED)
    assert (back, pots[POT].free) == ([(POT, "a", 60)], 90)
    pots = leases.consume(pots, "a", POT, 60)  # its journal comes after all
    assert (pots[POT].balance, pots[POT].free) == (40, 30)


def test_a_router_that_is_gone_too_long_is_not_prolonged() -> None:
    pots: Pots = pot_of(100, a=60)
    assert leases.renew(pots, "a", TERM + BLOCKED - 1)[1] != {}
    assert leases.renew(pots, "a", TERM + BLOCKED)[1] == {}


def test_a_router_that_comes_back_keeps_what_it_says_it_holds() -> None:
    pots: Pots = {**pot_of(100, a=60, b=10), "budget": Pot(50, {"a": Lease(20, 5, TERM)})}
    pots, kept = leases.returned(pots, "a", {POT: 25}, TERM + 1)
    assert kept == {POT: 25}
    assert (pots[POT].free, pots["budget"].free) == (65, 50)
    assert pots[POT].leases["a"] == Lease(25, 0, 2 * TERM + 1)


def test_what_had_returned_to_the_pot_is_lent_again_if_it_is_still_there() -> None:
    late = TERM + BLOCKED
    pots, _ = leases.expire(pot_of(100, a=60), late)
    pots, _ = lent(pots, "b", 90, now=late)
    pots, kept = leases.returned(pots, "a", {POT: 60}, late)
    assert kept == {POT: 10}
    assert pots[POT].free == 0


@pytest.mark.parametrize(
    ("pot", "over"),
    [
        (Pot(0), True),
        (Pot(-5), True),
        (Pot(1), False),
        (Pot(0, {"a": Lease(5, 0, 0)}), False),
        (Pot(0, {"a": Lease(5, 5, 0)}), True),
    ],
)
def test_a_pot_is_exhausted_when_nothing_is_left_or_lent(pot: Pot, over: bool) -> None:
    assert pot.exhausted is over


def test_a_default_has_no_leases_to_share() -> None:
    assert isinstance(Pot(1).leases, MappingProxyType)


ROUTERS = st.sampled_from("abc")
NAMES = ("credit", "budget", "key")
SOME = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)


class Lending(RuleBasedStateMachine):
    """Billing beside a model of what routers truly hold: unused, and spent but not arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.pots: Pots = {}
        self.now = 0
        self.unused: dict[tuple[str, str], int] = {}
        self.late: dict[tuple[str, str], int] = {}

    @initialize(balances=st.tuples(*[st.integers(0, 1000)] * 3))
    def fill(self, balances: tuple[int, ...]) -> None:
        for name, balance in zip(NAMES, balances, strict=True):
            self.pots = leases.move(self.pots, name, balance)

    @rule(router=ROUTERS, names=SOME, need=st.integers(1, 200), recalled=st.booleans())
    def ask(self, router: str, names: list[str], need: int, recalled: bool) -> None:
        if not all(self.alive(router, name) for name in names):
            self.come_back(router, False)  # before any question
        wants = {name: Want(need, need // 2) for name in names}
        before = self.pots
        free = {name: before[name].free for name in names}
        self.pots, answer = leases.ask(
            before, router, wants, self.now, routers=3, recalled=recalled
        )
        if not isinstance(answer, Granted):
            assert self.pots == before
            assert any(free[name] < need for name in names)
            return
        for name, amount in answer.amounts.items():
            assert min(need, free[name]) <= amount <= free[name]
            assert amount > 0
            self.unused[router, name] = self.unused.get((router, name), 0) + amount

    @rule(router=ROUTERS, name=st.sampled_from(NAMES), share=st.floats(0, 1))
    def spend(self, router: str, name: str, share: float) -> None:
        if self.alive(router, name):
            cost = int(self.unused.get((router, name), 0) * share)
            self.unused[router, name] = self.unused.get((router, name), 0) - cost
            self.late[router, name] = self.late.get((router, name), 0) + cost

    @rule(router=ROUTERS, name=st.sampled_from(NAMES), share=st.floats(0, 1))
    def arrive(self, router: str, name: str, share: float) -> None:
        cost = int(self.late.get((router, name), 0) * share)
        self.late[router, name] = self.late.get((router, name), 0) - cost
        before = self.pots[name]
        self.pots = leases.consume(self.pots, router, name, cost)
        if router in before.leases:
            assert self.pots[name].free == before.free

    @rule(router=ROUTERS, name=st.sampled_from(NAMES))
    def recall(self, router: str, name: str) -> None:
        if self.alive(router, name):
            amount = self.unused.pop((router, name), 0)
            before = self.pots[name].free
            self.pots = leases.give_back(self.pots, router, name, amount)
            assert self.pots[name].free == before + amount

    @rule(router=ROUTERS)
    def renew(self, router: str) -> None:
        self.pots, ends = leases.renew(self.pots, router, self.now)
        for name in NAMES:
            if name not in ends:
                self.unused.pop((router, name), None)

    @rule(router=ROUTERS, loses=st.booleans())
    def return_(self, router: str, loses: bool) -> None:
        self.come_back(router, loses)

    def come_back(self, router: str, loses: bool) -> None:
        """Its journal first, then its word."""
        for name in NAMES:
            self.pots = leases.consume(self.pots, router, name, self.late.pop((router, name), 0))
        holds = {name: 0 if loses else self.unused.pop((router, name), 0) for name in NAMES}
        self.pots, kept = leases.returned(self.pots, router, holds, self.now)
        for name in NAMES:
            self.unused[router, name] = kept.get(name, 0)

    @rule(seconds=st.sampled_from([0, 1, 10, 31, 300, 700]))
    def later(self, seconds: int) -> None:
        self.now += seconds * SECOND
        self.pots, back = leases.expire(self.pots, self.now)
        for name, router, amount in back:
            held = self.unused.pop((router, name), 0)
            assert amount >= held
            assert router not in self.pots[name].leases

    @rule(name=st.sampled_from(NAMES), amount=st.integers(0, 300))
    def fill_up(self, name: str, amount: int) -> None:
        self.pots = leases.move(self.pots, name, amount)

    def alive(self, router: str, name: str) -> bool:
        lease = self.pots[name].leases.get(router)
        return lease is not None and lease.ends > self.now

    @invariant()
    def everything_adds_up(self) -> None:
        for pot in self.pots.values():
            assert pot.free + sum(one.outstanding for one in pot.leases.values()) == pot.balance

    @invariant()
    def routers_hold_no_more_than_is_outstanding(self) -> None:
        for name, pot in self.pots.items():
            for router, lease in pot.leases.items():
                held = self.unused.get((router, name), 0) + self.late.get((router, name), 0)
                if lease.ends > self.now:
                    assert held <= lease.outstanding

    @invariant()
    def nothing_free_is_negative_but_for_late_journals(self) -> None:
        for name, pot in self.pots.items():
            assert pot.free >= 0 or self.now >= TERM + BLOCKED, name


TestLending = Lending.TestCase
TestLending.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.integers(1, 10**6), st.integers(1, 32), st.integers(1, 100))
def test_routers_that_all_ask_once_get_shares_of_one_size(
    balance: int, routers: int, need: int
) -> None:
    pots: Pots = pot_of(balance)
    amounts = []
    for router in range(routers):
        pots, answer = leases.ask(pots, f"r{router}", {POT: Want(need, 1)}, 0, routers=routers)
        if isinstance(answer, Granted):
            amounts.append(answer.amounts[POT])
    assert sum(amounts) + pots[POT].free == balance
    if balance >= 2 * routers * need:
        assert len(amounts) == routers  # nobody is left out while there is enough for all
        assert min(amounts) >= min(max(amounts) * 6 // 10, need)
        assert pots[POT].free >= balance * 4 // 10 or max(amounts) == need
