"""What a tenant may ask of its usage, and which buckets and pages answer it."""

from collections.abc import Iterable
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_billing import tenant_page, tenant_query
from tidegate_billing.tenant_page import Bucket, Found, Piece
from tidegate_billing.tenant_query import (
    CLAIMED,
    COSTS_PATH,
    DAY,
    HOUR,
    KINDS,
    LATEST,
    MINUTE,
    QueryError,
    Question,
)

COMPLETIONS = KINDS[tenant_query.USAGE_PATH + "completions"]
COSTS = KINDS[COSTS_PATH]
MARCH = 1_772_323_200
"""2026-03-01 00:00 UTC."""
NOW = MARCH + 10 * DAY + 5 * HOUR + 30


def ask(query: object = "", *, costs: bool = False, tenant: str = "t", now: int = NOW) -> Question:
    text = query if isinstance(query, str) else urlencode(query, doseq=True)  # type: ignore[arg-type]
    return tenant_query.read(COSTS if costs else COMPLETIONS, tenant, text, now)


@pytest.mark.parametrize(
    ("width", "seconds", "usual", "most"),
    [("1m", MINUTE, 60, 1440), ("1h", HOUR, 24, 168), ("1d", DAY, 7, 31), ("", DAY, 7, 31)],
)
def test_widths_have_openais_defaults_and_limits(
    width: str, seconds: int, usual: int, most: int
) -> None:
    chosen = {"bucket_width": width} if width else {}
    start = {"start_time": MARCH, **chosen}
    assert (ask(start).width, ask(start).most) == (seconds, usual)
    assert ask({**start, "limit": most}).most == most
    with pytest.raises(
        QueryError, match=f"limit: '{most + 1}' can't be used; allowed: 1 to {most}"
    ):
        ask({**start, "limit": most + 1})
    assert ask({"start_time": MARCH, "limit": 180}, costs=True).most == 180


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("", "start_time"),
        ("start_time=", "start_time"),
        ("start_time=-1", "start_time"),
        ("start_time=1.5", "start_time"),
        ("start_time=٣", "start_time"),
        (f"start_time={LATEST + 1}", "start_time"),
        ("start_time=60&start_time=60", "start_time"),
        ("start_time=60&end_time=60", "end_time"),
        ("start_time=60&bucket_width=1w", "bucket_width"),
        ("start_time=60&bucket_width[]=1d", "bucket_width[]"),
        ("start_time=60&limit=0", "limit"),
        ("start_time=60&limit=x", "limit"),
        ("start_time=60&group_by=user_id", "group_by"),
        ("start_time=60&group_by=line_item", "group_by"),
        ("start_time=60&group_by=model,project_id", "group_by"),
        ("start_time=60&group_by=model&group_by[]=model", "group_by"),
        ("start_time=60&models=", "models"),
        ("start_time=60&models=%00", "models"),
        ("start_time=60&models=a&models=a", "models"),
        ("start_time=60&" + "&".join(f"models=m{n}" for n in range(101)), "models"),
        ("start_time=60&tenant=other", "tenant"),
        ("start_time=60&user_ids=u", "user_ids"),
        ("start_time=60&line_items=x", "line_items"),
        ("start_time=60&models=%ff", "query"),
        ("start_time=60&models=" + "x" * 20_000, "query"),
        ("start_time=60&page=page_x", "page"),
        ("start_time=60&page=", "page"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_name(query: str, param: str) -> None:
    with pytest.raises(QueryError) as caught:
        ask(query)
    assert caught.value.param == param
    assert str(caught.value).startswith(f"{param}: ")


def test_costs_are_by_day_and_group_by_other_things() -> None:
    with pytest.raises(QueryError, match="'1h' is not a width; allowed: 1d"):
        ask("start_time=60&bucket_width=1h", costs=True)
    with pytest.raises(QueryError, match="allowed: project_id, api_key_id, line_item"):
        ask("start_time=60&group_by=model", costs=True)
    found = ask(f"start_time={MARCH}&group_by[]=line_item&line_items=a, b", costs=True)
    assert (found.groups, found.filters) == (("line_item",), {"line_items": ("a, b",)})


def test_lists_are_written_in_either_way() -> None:
    found = ask(f"start_time={MARCH}&group_by=model&group_by[]=project_id&models[]=a&models=b")
    assert found.groups == ("model", "project_id")
    assert found.filters == {"models": ("a", "b")}


def test_every_endpoint_belongs_to_one_kind_of_usage() -> None:
    usage = [kind for kind in KINDS.values() if not kind.money]
    assert [kind.name for kind in usage if kind.endpoints is None] == ["completions"]
    named = [name for kind in usage for name in kind.endpoints or ()]
    assert sorted(named) == sorted(CLAIMED)


def test_usage_begins_in_the_asked_minute_and_its_other_buckets_are_of_the_clock() -> None:
    found = ask({"start_time": MARCH - HOUR + 61, "end_time": MARCH + DAY + 1, "limit": 31})
    assert tenant_page.buckets(found) == [
        Bucket(MARCH - HOUR + 60, MARCH),
        Bucket(MARCH, MARCH + DAY),
        Bucket(MARCH + DAY, MARCH + DAY + MINUTE),
    ]
    assert tenant_page.pieces(tenant_page.buckets(found), DAY) == [
        Piece(MINUTE, (MARCH - HOUR) // 60 + 1, MARCH // 60 - 1, MARCH - HOUR + 60),
        Piece(DAY, MARCH // DAY, MARCH // DAY),
        Piece(MINUTE, (MARCH + DAY) // 60, (MARCH + DAY) // 60, MARCH + DAY),
    ]


def test_costs_are_of_whole_days() -> None:
    found = ask({"start_time": MARCH + 1, "end_time": MARCH + DAY + 1}, costs=True)
    assert tenant_page.buckets(found) == [
        Bucket(MARCH, MARCH + DAY), Bucket(MARCH + DAY, MARCH + 2 * DAY),
    ]  # fmt: skip


def test_without_an_end_the_last_bucket_is_the_one_of_now() -> None:
    assert ask({"start_time": MARCH, "bucket_width": "1h"}).end == MARCH + 10 * DAY + 6 * HOUR
    assert ask({"start_time": MARCH}).end == MARCH + 11 * DAY
    assert ask({"start_time": MARCH}, costs=True).end == MARCH + 11 * DAY
    assert ask({"start_time": MARCH}, now=MARCH).end == MARCH + DAY
    assert tenant_page.buckets(ask({"start_time": NOW + DAY})) == []


def test_the_nights_when_clocks_are_changed_have_24_hours() -> None:
    for day in (1_774_742_400, 1_792_886_400):  # 2026-03-29 and 2026-10-25, Europe's two
        found = ask({"start_time": day, "end_time": day + DAY, "bucket_width": "1h"})
        assert len(tenant_page.buckets(found)) == 24
        (one,) = tenant_page.buckets(ask({"start_time": day, "end_time": day + DAY}))
        assert one == Bucket(day, day + DAY)


def pages(query: dict[str, object], limits: Iterable[int]) -> list[object]:
    """All pages, one after the other, each later than the one before, as the clock goes on."""
    data: list[object] = []
    token, now = None, NOW
    for limit in limits:
        now += HOUR
        more = {} if token is None else {"page": token}
        question = ask({**query, "limit": limit, **more}, now=now)
        made = tenant_page.page(question, tenant_page.buckets(question), [])
        data += made["data"]  # type: ignore[arg-type]
        token = made["next_page"]
        assert made["has_more"] is (token is not None)
        if token is None:
            return data
    raise AssertionError("too few limits")


@given(
    start=st.integers(MARCH, MARCH + 2 * DAY),
    length=st.integers(1, 4 * DAY),
    width=st.sampled_from(["1h", "1d"]),
    limits=st.lists(st.integers(1, 31), min_size=100, max_size=100),
)
def test_pages_are_one_page_in_pieces(
    start: int, length: int, width: str, limits: list[int]
) -> None:
    query = {"start_time": start, "end_time": start + length, "bucket_width": width}
    (one,) = [pages({**query}, [168 if width == "1h" else 31])]
    assert pages({**query}, limits) == one
    edges = [bucket["start_time"] for bucket in one] + [one[-1]["end_time"]]  # type: ignore[index]
    assert edges[0] == start - start % 60
    assert edges[-1] == -(-(start + length) // 60) * 60
    assert edges == sorted(set(edges))
    assert all(edge % (HOUR if width == "1h" else DAY) == 0 for edge in edges[1:-1])


def test_time_that_passes_between_pages_adds_no_bucket() -> None:
    later = pages({"start_time": MARCH}, [3] * 9)
    assert later == pages({"start_time": MARCH}, [31])


def test_a_page_belongs_to_its_question_and_tenant() -> None:
    first = ask({"start_time": MARCH, "group_by": ["model", "project_id"]})
    token = tenant_page.page(first, tenant_page.buckets(first), [])["next_page"]
    same = {"start_time": MARCH, "group_by": ["project_id", "model"], "page": token, "limit": 1}
    assert ask(same).start == MARCH + 7 * DAY
    for other in (
        {**same, "start_time": MARCH + DAY},
        {**same, "group_by": "model"},
        {**same, "models": "m"},
        {**same, "bucket_width": "1h"},
        {**same, "end_time": MARCH + 9 * DAY},
        {**same, "page": str(token)[:-2] + "AA"},
        {**same, "page": str(token)[5:9]},
    ):
        with pytest.raises(QueryError, match="page: is no page of this question"):
            ask(other)
    with pytest.raises(QueryError, match="page"):
        ask(same, tenant="u")
    with pytest.raises(QueryError, match="page"):
        ask({"start_time": MARCH, "page": token}, costs=True)


def test_a_page_holds_no_more_results_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_page, "MOST_RESULTS", 3)
    question = ask({"start_time": MARCH, "end_time": MARCH + 3 * DAY})
    days = [MARCH, MARCH, MARCH + DAY, MARCH + 2 * DAY]
    shown, full = tenant_page.cut(question, days)
    assert (len(shown), full) == (2, False)
    assert tenant_page.page(question, shown, [])["has_more"] is True
    assert tenant_page.cut(question, [MARCH] * 4) == ([], True)
    assert len(tenant_page.cut(question, days[:3])[0]) == 3


def test_results_are_in_openais_words() -> None:
    question = ask({"start_time": MARCH, "group_by": "model"})
    sums = {"prompt_tokens": 5, "cached_tokens": 3, "completion_tokens": 2, "requests": 1}
    result = tenant_page.usage_result(question, Found(MARCH, {"model": "m"}, sums))
    assert result == {
        "object": "organization.usage.completions.result",
        "input_tokens": 5, "input_cached_tokens": 3, "output_tokens": 2,
        "input_audio_tokens": 0, "output_audio_tokens": 0, "num_model_requests": 1,
        "project_id": None, "user_id": None, "api_key_id": None, "model": "m", "batch": None,
        "service_tier": None,
    }  # fmt: skip
    made = tenant_page.page(question, tenant_page.buckets(question)[:2], [(MARCH, result)])
    first, second = made["data"]  # type: ignore[misc]
    assert first == {
        "object": "bucket", "start_time": MARCH, "end_time": MARCH + DAY, "results": [result],
    }  # fmt: skip
    assert second["results"] == []


def test_an_amount_is_a_number_and_exact() -> None:
    assert tenant_page.amount(6_900_000_000_000, "USD") == {
        "value": 0.0000069, "value_exact": "0.0000069", "currency": "usd",
    }  # fmt: skip
    exact = tenant_page.amount(123_456_789_012_345_678_901_234_567, "USD")["value_exact"]
    assert exact == "123456789.012345678901234567"
