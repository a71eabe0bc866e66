"""From sums to the page that a tenant sees, pure: which buckets there are, and what is in them.

Buckets end at whole minutes, hours and days in UTC, where no clock is ever put back. As with OpenAI,
usage begins in the minute that was asked for, so a first or last bucket may be cut; costs are of
whole days. A bucket without usage is there, with no results.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tidegate_billing import money
from tidegate_billing.tenant_query import MINUTE, Question, page_token

MOST_RESULTS: Final = 10_000
"""Results of a page. Where groups are many, it has fewer buckets than were asked for."""


class Bucket(NamedTuple):
    """From `start` to before `end`, in seconds since the epoch."""

    start: int
    end: int


class Piece(NamedTuple):
    """What one query sums: numbers `first` to `last` of a rollup whose buckets have `width` seconds.

    `into`: the start of the one bucket that all of it goes to; None: each number is a bucket."""

    width: int
    first: int
    last: int
    into: int | None = None


class Found(NamedTuple):
    """Sums of one group in the bucket that begins at `start`.

    `group`: its values by the names of `group_by`."""

    start: int
    group: Mapping[str, str]
    sums: Mapping[str, int]


class Cost(NamedTuple):
    """What one group costs in the bucket that begins at `start`, in atto.

    `unit`: what of, where there is a line item of one meter; `quantity` is counted so many to one."""

    start: int
    group: Mapping[str, str]
    currency: str
    amount: int
    quantity: int = 0
    counted: int = 1
    unit: str | None = None


def buckets(question: Question) -> list[Bucket]:
    """The buckets of one page."""
    found: list[Bucket] = []
    at = question.start
    while at < question.end and len(found) < question.most:
        upto = min((at // question.width + 1) * question.width, question.end)
        found.append(Bucket(at, upto))
        at = upto
    return found


def pieces(page: Sequence[Bucket], width: int) -> list[Piece]:
    """How to sum these buckets: whole ones by the rollup of their width, cut ones by minutes."""
    whole = [one for one in page if one.end - one.start == width]
    found = [
        Piece(MINUTE, one.start // MINUTE, one.end // MINUTE - 1, one.start)
        for one in page
        if one.end - one.start != width
    ]
    if whole:
        found.append(Piece(width, whole[0].start // width, whole[-1].start // width))
    return sorted(found, key=lambda piece: piece.first * piece.width)


def cut(question: Question, starts: Iterable[int]) -> tuple[list[Bucket], bool]:
    """The buckets of a page whose results begin at `starts`, as many as it can hold.

    The flag: not even one bucket can be held."""
    page = buckets(question)
    counts: dict[int, int] = {}
    for start in starts:
        counts[start] = counts.get(start, 0) + 1
    total = 0
    for number, bucket in enumerate(page):
        total += counts.get(bucket.start, 0)
        if total > MOST_RESULTS:
            return page[:number], number == 0
    return page, False


def page(
    question: Question, shown: Sequence[Bucket], results: Iterable[tuple[int, dict[str, object]]]
) -> dict[str, object]:
    """The page object. `results`: each with the start of its bucket."""
    within: dict[int, list[dict[str, object]]] = {bucket.start: [] for bucket in shown}
    for start, result in results:
        if start in within:
            within[start].append(result)
    more = bool(shown) and shown[-1].end < question.end
    return {
        "object": "page",
        "data": [
            {
                "object": "bucket",
                "start_time": bucket.start,
                "end_time": bucket.end,
                "results": within[bucket.start],
            }
            for bucket in shown
        ],
        "has_more": more,
        "next_page": page_token(question, shown[-1].end) if more else None,
    }


def usage_result(question: Question, found: Found) -> dict[str, object]:
    """A group's usage in OpenAI's words. Cached tokens are part of the input."""
    sums = found.sums
    tokens: dict[str, Any] = {"input_tokens": sums["prompt_tokens"]}
    if question.kind.name == "completions":
        tokens |= {
            "output_tokens": sums["completion_tokens"],
            "input_cached_tokens": sums["cached_tokens"],
            "input_audio_tokens": 0,
            "output_audio_tokens": 0,
        }
    shown = {
        "object": question.kind.result,
        **tokens,
        "num_model_requests": sums["requests"],
        "project_id": found.group.get("project_id"),
        "user_id": None,
        "api_key_id": found.group.get("api_key_id"),
        "model": found.group.get("model"),
    }
    if question.kind.name == "completions":
        shown |= {"batch": None, "service_tier": None}
    return shown


def cost_result(question: Question, cost: Cost) -> dict[str, object]:
    """A group's cost. OpenAI's `value` is a JSON number, which can't hold every amount exactly;
    `value_exact` can."""
    return {
        "object": question.kind.result,
        "amount": amount(cost.amount, cost.currency),
        "line_item": cost.group.get("line_item"),
        "project_id": cost.group.get("project_id"),
        "api_key_id": cost.group.get("api_key_id"),
        "user_id": None,
        "quantity": None if cost.unit is None else cost.quantity / cost.counted,
        "quantity_unit": cost.unit,
    }


def amount(atto: int, currency: str) -> dict[str, object]:
    """Money as the tenant's API shows it."""
    exact = money.plain(atto)
    return {"value": float(exact), "value_exact": exact, "currency": currency.lower()}
