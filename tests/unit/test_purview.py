"""Which pots pay for whom, at which rates, and what an answer is cut to."""

import pytest

from tidegate_billing.lending.said import PotView, RateView
from tidegate_billing.links import KeyView, SnapshotLine
from tidegate_runtime import openai
from tidegate_runtime.draw import CONTEXT, Draw
from tidegate_runtime.purview import Purview
from tidegate_runtime.wallet import Rates, Reservation, quote

MICRO = 10**12


def key(tenant: str = "t", project: str = "p", key_id: str = "k") -> KeyView:
    return KeyView(id=key_id, digest="00", tenant=tenant, project=project)


def credit(since: int, tenant: str = "t", currency: str = "USD") -> PotView:
    name = f"credit:{tenant}:{currency}:{since}"
    return PotView(name=name, tenant=tenant, currency=currency, since=since)


def change(**what: object) -> SnapshotLine:
    return SnapshotLine(type="change", version=1, **what)  # type: ignore[arg-type]


def test_a_tenant_without_pots_is_not_looked_at() -> None:
    purview = Purview()
    purview.apply(change(pots=[credit(0)]))
    assert purview.limited("t")
    assert not purview.limited("u")
    purview.apply(change(removed_pots=["credit:t:USD:0"]))
    assert not purview.limited("t")


def test_the_newest_pot_that_has_begun_pays() -> None:
    purview = Purview()
    purview.apply(change(pots=[credit(100), credit(0), credit(200)]))
    for wall, since in ((0, 0), (99, 0), (100, 100), (199, 100), (200, 200), (10**15, 200)):
        assert purview.covering(key(), "USD", wall) == (f"credit:t:USD:{since}",)
    purview.apply(change(removed_pots=["credit:t:USD:0", "credit:t:USD:100"]))
    assert purview.covering(key(), "USD", 150) == ("credit:t:USD:200",), (
        "a clock behind is no way in"
    )


def test_pots_of_projects_and_keys_pay_for_theirs() -> None:
    purview = Purview()
    mine = PotView(name="budget:b:0", tenant="t", currency="USD", project="p")
    ours = PotView(name="budget:c:0", tenant="t", currency="USD", key_id="k")
    foreign = PotView(name="budget:d:0", tenant="t", currency="EUR")
    purview.apply(change(pots=[mine, ours, foreign]))
    assert purview.covering(key(), "USD", 1) == ("budget:b:0", "budget:c:0")
    assert purview.covering(key(project="q"), "USD", 1) == ("budget:c:0",)
    assert purview.covering(key(project="q", key_id="l"), "USD", 1) == ()
    assert purview.covering(key(), "EUR", 1) == ("budget:d:0",)


def test_a_prepaid_tenant_has_no_way_around_its_credit() -> None:
    purview = Purview()
    purview.apply(change(pots=[credit(0)]))
    assert purview.covering(key(), "EUR", 1) is None


def test_a_whole_picture_replaces_what_was_known() -> None:
    purview = Purview()
    rate = RateView(deployment="d", currency="USD", input="0.000001", output="0.000002")
    own = RateView(deployment="d", currency="USD", input="1", output="2", tenant="t")
    purview.apply(change(pots=[credit(0), credit(0, "u")], rates=[rate, own]))
    offer = purview.offer("u", "d")
    assert offer is not None
    assert offer.rates == Rates(MICRO, 2 * MICRO, 0)
    found = purview.offer("t", "d")
    assert found is not None
    assert found.rates.input == 10**18
    whole = SnapshotLine(type="snapshot", version=2, pots=[credit(0, "u")], rates=[rate])
    assert purview.apply(whole) == [], "nothing is new"
    assert not purview.limited("t")
    assert purview.offer("t", "d") == offer
    assert (purview.pots, purview.rates) == ([credit(0, "u")], [rate])


@pytest.mark.parametrize(
    ("asked", "context", "held", "cap"),
    [
        (100, 8192, 100, None),
        (100, 8192, 40, 40),
        (9000, 8192, 8192, 8192),
        (None, 8192, 8192, None),
        (None, 8192, 8000, 8000),
        (None, 8192, 8150, 8100),  # beside a prompt of 92
        (None, 8192, 9, 9),
        (None, 0, 4096, 4096),
        (None, 0, CONTEXT, None),
        (None, 2048, 4096, None),
        (0, 8192, 1, None),
    ],
)
def test_an_answer_is_cut_where_less_is_reserved_than_it_may_have(
    asked: int | None, context: int, held: int, cap: int | None
) -> None:
    draw = Draw(("credit",), Rates(1, 1), 92, asked, 0.0)
    draw.quote = quote(draw.rates, 92, choices=1, max_tokens=asked, longest=context or CONTEXT)
    assert draw.cap(context) is None, "nothing is reserved yet"
    draw.held = Reservation(("credit",), 1, held)
    assert draw.cap(context) == cap


@pytest.mark.parametrize("prompt", [92, 4257, 8192, 10**6])
@pytest.mark.parametrize("held", [1, 9, 4096, 8191])
def test_no_prompt_however_padded_takes_the_bound_away(prompt: int, held: int) -> None:
    draw = Draw(("credit",), Rates(1, 1), prompt, None, 0.0)
    draw.quote = quote(draw.rates, prompt, choices=1, max_tokens=None, longest=8192)
    draw.held = Reservation(("credit",), 1, held)
    cap = draw.cap(8192)
    assert cap is not None
    assert 1 <= cap <= held


def test_a_completion_is_bounded_by_the_spelling_that_engines_read_there() -> None:
    body = b'{"model": "m", "prompt": "x", "max_completion_tokens": 1}'
    assert openai.parse(openai.COMPLETIONS, body).max_tokens is None


def test_what_is_cut_is_cut_in_both_spellings() -> None:
    body = b'{"model": "m", "messages": [{}], "max_tokens": 50, "max_completion_tokens": 70}'
    request = openai.parse(openai.CHAT, body)
    assert request.max_tokens == 70, "whichever the engine follows, it is reserved"
    cut = openai.splice(body, request, "", 9)
    assert openai.parse(openai.CHAT, cut).max_tokens == 9
    plain = b'{"model": "m", "prompt": "a"}'
    cut = openai.splice(plain, openai.parse(openai.COMPLETIONS, plain), "", 3)
    assert cut == b'{"model": "m", "prompt": "a","max_tokens":3}'
