"""The wallet: what a request reserves, what it is cut to, and what a router may give back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_runtime.wallet import (
    UNBOUNDED_TOKENS,
    Empty,
    NeedMore,
    Quote,
    Rates,
    Reservation,
    Wallet,
    price,
    prompt_tokens,
    quote,
)

RATES = Rates(input=2, output=10)
ONE = ("credit",)


def holding(now: float = 0.0, **pots: int) -> Wallet:
    wallet = Wallet()
    for pot, amount in pots.items():
        assert wallet.ask([pot], now)
        wallet.granted(pot, amount, now + 30)
    return wallet


def taken(found: Reservation | NeedMore | Empty) -> Reservation:
    assert isinstance(found, Reservation)
    return found


def test_a_request_is_priced_at_its_worst() -> None:
    asked = quote(RATES, 100, choices=3, max_tokens=7, longest=1000)
    assert (asked.worst, asked.need, asked.least) == (200 + 210, 410, 230)
    assert quote(RATES, 100, choices=1, max_tokens=5000, longest=1000).worst == 200 + 10_000


def test_a_request_without_a_bound_may_be_as_long_as_the_model_allows() -> None:
    asked = quote(RATES, 0, choices=2, max_tokens=None, longest=100_000)
    assert asked.worst == 2_000_000
    assert asked.need == 20 * UNBOUNDED_TOKENS
    plenty = holding(credit=2_000_000)
    assert taken(plenty.reserve(ONE, asked, 0)).tokens == 100_000
    tight = holding(credit=1_999_999)
    assert taken(tight.reserve(ONE, asked, 0)).tokens == UNBOUNDED_TOKENS


def test_a_request_without_output_is_priced_too() -> None:
    rates = Rates(input=2, output=10, request=5)
    asked = quote(rates, 100, choices=1, max_tokens=None, longest=0)
    assert (asked.worst, asked.least) == (205, 205)
    assert taken(holding(credit=205).reserve(ONE, asked, 0)).tokens == 0
    assert holding(credit=204).squeeze(ONE, asked, 0) == Empty("credit")
    assert price(rates, 100, 3) == 235


def test_no_tokens_asked_for_is_no_reason_to_refuse() -> None:
    asked = quote(RATES, 10, choices=1, max_tokens=0, longest=100)
    assert taken(holding(credit=20).reserve(ONE, asked, 0)).tokens == 0
    assert isinstance(holding(credit=20).squeeze(ONE, asked, 0), Reservation)


def test_what_is_free_needs_no_lease() -> None:
    wallet = Wallet()
    asked = quote(Rates(0, 0), 100, choices=1, max_tokens=None, longest=100)
    one = taken(wallet.reserve(ONE, asked, 0))
    assert one.tokens == 100
    wallet.sweep(1000)
    wallet.settle(one, 0)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (b"", 32),
        (b'{"messages":[{"role":"user","content":"Hello"}]}', 48),
        (b"x" * 3000, 1032),
        (b"7" * 3000, 2032),
        ("天".encode() * 1000, 2032),
        (b"x" * 3000 + "天".encode() * 1000, 3032),
    ],
)
def test_a_prompt_is_estimated_from_its_bytes(body: bytes, tokens: int) -> None:
    assert prompt_tokens(body) == tokens
    assert prompt_tokens(body, extra=1000) == tokens + 1000


@given(st.binary(max_size=500))
def test_the_estimate_is_off_by_two_thirds_of_the_bytes_at_most(body: bytes) -> None:
    assert len(body) - prompt_tokens(body) <= len(body) * 2 / 3


def test_a_reservation_is_in_all_pots_or_in_none() -> None:
    wallet = holding(credit=100, budget=50)
    pots = ("credit", "budget")
    found = wallet.reserve(pots, Quote(60), 0)
    assert found == NeedMore({"budget": (10, 10)})
    assert (wallet.unused("credit", 0), wallet.unused("budget", 0)) == (100, 50)
    taken(wallet.reserve(pots, Quote(50), 0))
    assert (wallet.unused("credit", 0), wallet.unused("budget", 0)) == (50, 0)


def test_settling_replaces_the_worst_by_the_actual_once() -> None:
    wallet = holding(credit=100)
    one = taken(wallet.reserve(ONE, Quote(60), 0))
    wallet.settle(one, 25)
    wallet.settle(one, 25)
    wallet.release(one)
    assert wallet.unused("credit", 0) == 75
    other = taken(wallet.reserve(ONE, Quote(70), 0))
    wallet.release(other)
    assert wallet.unused("credit", 0) == 75
    assert wallet.spent() == {"credit": 25}
    assert wallet.spent() == {}  # said already


def test_the_smallest_lease_cuts_the_tokens_of_each_answer() -> None:
    wallet = holding(credit=1000, budget=290)
    asked = quote(RATES, 100, choices=4, max_tokens=50, longest=100)
    assert wallet.clamp(("credit",), asked, 0) == 20
    assert wallet.clamp(("credit", "budget"), asked, 0) == 2
    one = wallet.squeeze(("credit", "budget"), asked, 0)
    assert isinstance(one, Reservation)
    assert (one.tokens, one.amount) == (2, 280)
    assert wallet.clamp(("credit", "budget"), asked, 0) == -1
    assert wallet.squeeze(("credit", "budget"), asked, 0) == Empty("budget")


def test_a_prompt_without_a_token_of_answer_is_not_let_in() -> None:
    asked = quote(RATES, 100, choices=4, max_tokens=50, longest=100)
    wallet = holding(credit=239)
    assert wallet.clamp(ONE, asked, 0) == 0
    assert wallet.squeeze(ONE, asked, 0) == Empty("credit")


def test_nothing_is_admitted_on_a_lease_that_has_ended() -> None:
    wallet = holding(credit=100)
    assert isinstance(wallet.reserve(ONE, Quote(1), 29.9), Reservation)
    assert wallet.reserve(ONE, Quote(1), 30.0) == NeedMore({"credit": (1, 1)})
    wallet.renewed(["credit"], {"credit": 60.0}, 30.0)
    assert wallet.unused("credit", 30.0) == 99


def test_a_lease_that_billing_forgot_is_gone_and_its_running_requests_go_on() -> None:
    wallet = holding(credit=100)
    one = taken(wallet.reserve(ONE, Quote(10), 0))
    wallet.renewed(["credit"], {}, 29.0)  # told before the last grant: it stays
    assert wallet.unused("credit", 29.0) == 90
    wallet.renewed(["credit"], {}, 700.0)
    wallet.granted("credit", 50, 730.0)
    assert wallet.unused("credit", 700.0) == 40
    wallet.settle(one, 4)
    assert wallet.unused("credit", 700.0) == 46


def test_a_recall_never_takes_what_is_reserved() -> None:
    wallet = holding(credit=100)
    one = taken(wallet.reserve(ONE, Quote(60), 0))
    assert wallet.give_back("credit") == 40
    assert wallet.give_back("credit") == 0
    assert wallet.give_back("other") == 0
    wallet.settle(one, 10)
    assert wallet.give_back("credit") == 50
    assert wallet.holds() == {}


def test_what_is_left_of_an_ended_lease_goes_back_bit_by_bit() -> None:
    wallet = holding(credit=100, budget=7)
    wallet.renewed(["budget"], {"budget": 60.0}, 1)
    one = taken(wallet.reserve(ONE, Quote(60), 0))
    assert wallet.leftovers(29.9) == {}
    assert wallet.leftovers(30) == {"credit": 40}
    assert wallet.leftovers(31) == {}
    wallet.settle(one, 10)
    assert wallet.leftovers(32) == {"credit": 50}
    assert wallet.holds() == {"budget": 7}


def test_one_question_per_pot_is_under_way() -> None:
    wallet = Wallet()
    assert wallet.ask(["credit", "budget"], 0)
    assert not wallet.ask(["credit"], 0)
    assert not wallet.ask(["other", "budget"], 0)
    assert wallet.ask(["other"], 0)
    wallet.granted("credit", 5, 30)
    wallet.refused("budget", 0, 0)
    assert wallet.ask(["credit"], 0)
    wallet.unanswered("credit")
    assert wallet.ask(["credit", "budget"], 0)


def test_a_lease_asks_ahead_before_it_is_empty() -> None:
    wallet = holding(credit=100)
    taken(wallet.reserve(ONE, Quote(75), 0))
    assert wallet.low == {}
    taken(wallet.reserve(ONE, Quote(1), 0))
    assert wallet.low == {"credit": 1}
    wallet.low.clear()
    assert wallet.ask(ONE, 0)
    taken(wallet.reserve(ONE, Quote(1), 0))
    assert wallet.low == {}  # it is under way
    wallet.refused("credit", 0, 0)
    taken(wallet.reserve(ONE, Quote(1), 0.5))
    assert wallet.low == {}  # and was refused just now
    taken(wallet.reserve(ONE, Quote(1), 1.0))
    assert wallet.low == {"credit": 1}


def test_a_refusal_is_believed_for_a_second() -> None:
    wallet = holding(credit=10)
    wallet.refused("credit", 5, 0)
    assert wallet.reserve(ONE, Quote(16), 0.5) == Empty("credit")
    assert wallet.reserve(ONE, Quote(15), 0.5) == NeedMore({"credit": (5, 5)})
    assert wallet.reserve(ONE, Quote(16), 1.0) == NeedMore({"credit": (6, 6)})
    wallet.refused("credit", 0, 1.0)
    wallet.filled("credit")
    assert wallet.reserve(ONE, Quote(16), 1.1) == NeedMore({"credit": (6, 6)})


def test_an_empty_pot_is_refused_without_a_question() -> None:
    wallet = holding(credit=200)
    wallet.emptied("credit", 0)
    asked = quote(RATES, 50, choices=1, max_tokens=50, longest=100)
    assert taken(wallet.reserve(ONE, asked, 0)).tokens == 10  # the last of it
    assert wallet.reserve(ONE, asked, 0) == Empty("credit")
    assert wallet.reserve(ONE, asked, 3599) == Empty("credit")
    assert isinstance(wallet.reserve(ONE, asked, 3600), NeedMore)
    wallet.filled("credit")
    assert isinstance(wallet.reserve(ONE, asked, 0), NeedMore)
    wallet.emptied("credit", 0)
    wallet.sweep(3600)
    assert not wallet._empty


def test_after_telling_what_it_holds_a_wallet_counts_from_there() -> None:
    wallet = holding(credit=100, budget=20)
    one = taken(wallet.reserve(ONE, Quote(10), 0))
    two = taken(wallet.reserve(ONE, Quote(10), 0))
    wallet.settle(one, 3)
    assert wallet.holds() == {"credit": 97, "budget": 20}
    wallet.settle(two, 4)  # between question and answer
    wallet.kept({"credit": 50}, 90.0)
    assert wallet.unused("credit", 80) == 46
    assert wallet.unused("budget", 80) == 0
    assert wallet.spent() == {"credit": 4}
    wallet.settle(taken(wallet.reserve(ONE, Quote(10), 80)), 9)
    assert wallet.spent() == {"credit": 13}


def test_leases_are_forgotten_when_billing_has_forgotten_them() -> None:
    wallet = holding(credit=100, budget=50)
    one = taken(wallet.reserve(ONE, Quote(60), 0))
    wallet.sweep(689.0)
    assert set(wallet._leases) == {"credit", "budget"}
    wallet.sweep(690.0)
    assert set(wallet._leases) == {"credit"}  # an answer still runs
    wallet.settle(one, 10)
    wallet.sweep(690.0)
    assert wallet.spent() == {"credit": 10}  # and had to be told
    wallet.sweep(690.0)
    assert not wallet._leases


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.booleans())))
def test_what_is_left_and_reserved_and_spent_is_what_was_granted(
    requests: list[tuple[int, int, bool]],
) -> None:
    wallet = holding(credit=500)
    returned = spent = 0
    open_ones = []
    for worst, actual, settles in requests:
        found = wallet.reserve(ONE, Quote(worst), 1.0)
        if isinstance(found, Reservation):
            open_ones.append((found, min(actual, worst)))
        if settles and open_ones:
            one, cost = open_ones.pop(0)
            wallet.settle(one, cost)
            spent += cost
        if actual == 7:
            returned += wallet.give_back("credit")
        reserved = sum(one.amount for one, _ in open_ones)
        assert wallet.unused("credit", 1.0) + reserved + spent + returned == 500


def test_who_pays_later_needs_no_pots() -> None:
    wallet = Wallet()
    one = taken(wallet.reserve((), Quote(10**30, 5, 100, 100), 0))
    assert one.tokens == 100
    wallet.settle(one, 7)
    assert wallet.spent() == {}


def test_a_no_to_who_asks_ahead_is_none_to_who_needs_it() -> None:
    wallet = Wallet()
    wallet.granted("credit", 100, 30.0)
    assert isinstance(wallet.reserve(("credit",), Quote(90), 0.0), Reservation)
    assert wallet.low == {"credit": 90}
    wallet.low.clear()
    assert wallet.ask(["credit"], 0.0)
    wallet.declined("credit", 0.0)
    assert wallet.reserve(("credit",), Quote(50), 0.1) == NeedMore({"credit": (40, 40)})
    assert isinstance(wallet.reserve(("credit",), Quote(5), 0.1), Reservation)
    assert wallet.low == {}, "nobody asks ahead again at once"
    assert isinstance(wallet.reserve(("credit",), Quote(2), 2.0), Reservation)
    assert wallet.low == {"credit": 2}
