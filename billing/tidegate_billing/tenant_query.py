"""What a tenant asks of its usage and costs: a query string in, a value out, pure.

Names, defaults and limits are those of OpenAI's usage API, so that its SDK and what was written for
it work here. Nothing is guessed: a parameter that nobody reads, or that is given twice, is refused
by its name, because a filter that was overlooked would look like usage.
"""

import base64
import binascii
import hashlib
import re
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

MINUTE, HOUR, DAY = 60, 3600, 86_400
LATEST: Final = 253_402_300_800
"""The first second of the year 10000."""
USAGE_PATH: Final = "/v1/organization/usage/"
COSTS_PATH: Final = "/v1/organization/costs"
_MOST_VALUES: Final = 100
_LONGEST_QUERY: Final = 16_384
_WHOLE: Final = re.compile(r"[0-9]{1,12}")
_TOKEN: Final = struct.Struct(">QQ8s")


class Kind(NamedTuple):
    """One of the questions. `endpoints`: whose usage it is; None: of all that no other kind claims,
    so that the kinds together are the bill. `widths`: seconds, default and most buckets by name."""

    name: str
    result: str
    endpoints: frozenset[str] | None
    groups: tuple[str, ...]
    filters: tuple[str, ...]
    widths: Mapping[str, tuple[int, int, int]]

    @property
    def money(self) -> bool:
        """Whether the answer is in money."""
        return self.name == "costs"


_WIDTHS: Final = {"1m": (MINUTE, 60, 1440), "1h": (HOUR, 24, 168), "1d": (DAY, 7, 31)}
_GROUPS: Final = ("project_id", "api_key_id", "model")
_FILTERS: Final = ("project_ids", "api_key_ids", "models")


def _usage(name: str, *endpoints: str) -> Kind:
    claimed = frozenset(endpoints) or None
    result = f"organization.usage.{name}.result"
    return Kind(name, result, claimed, _GROUPS, _FILTERS, _WIDTHS)


KINDS: Final = {
    USAGE_PATH + "completions": _usage("completions"),
    USAGE_PATH + "embeddings": _usage("embeddings", "/v1/embeddings"),
    USAGE_PATH + "moderations": _usage("moderations", "/v1/moderations"),
    COSTS_PATH: Kind(
        "costs",
        "organization.costs.result",
        None,
        ("project_id", "api_key_id", "line_item"),
        ("project_ids", "api_key_ids", "line_items"),
        {"1d": (DAY, 7, 180)},
    ),
}
CLAIMED: Final = frozenset().union(*(kind.endpoints or () for kind in KINDS.values()))
"""The endpoints whose usage is not a completion's."""


class QueryError(ValueError):
    """A parameter can't be used; the message says what is allowed."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(f"{param}: {message}")
        self.param = param


class Question(NamedTuple):
    """What is asked, from `start` to before `end` in seconds since the epoch; `most` buckets.

    `filters`: the values allowed, by parameter; `mark`: a digest of all that pages have in common.
    """

    kind: Kind
    start: int
    end: int
    width: int
    most: int
    groups: tuple[str, ...]
    filters: Mapping[str, tuple[str, ...]]
    mark: bytes


def read(kind: Kind, tenant: str, query: str, now: int) -> Question:
    """The question in `query`, asked at `now` (seconds). Raises QueryError."""
    if len(query) > _LONGEST_QUERY:
        raise QueryError("query", f"is over {_LONGEST_QUERY} characters; ask for fewer ids")
    lists, ones = _split(kind, query)
    name = ones.get("bucket_width", "1d")
    if name not in kind.widths:
        raise QueryError("bucket_width", f"{name[:80]!r} is not a width; {_allowed(kind.widths)}")
    width, usual, most = kind.widths[name]
    if "start_time" not in ones:
        raise QueryError("start_time", "is missing; allowed: seconds since the epoch")
    start = _seconds(ones, "start_time")
    end = _seconds(ones, "end_time") if "end_time" in ones else None
    if end is not None and end <= start:
        raise QueryError("end_time", f"{end} is not after start_time; allowed: a later time")
    limit = _number(ones, "limit", 1, most) if "limit" in ones else usual
    groups = lists.pop("group_by", ())
    for group in groups:
        if group not in kind.groups:
            raise QueryError("group_by", f"{group[:80]!r} is not known; {_allowed(kind.groups)}")
    mark = _mark(kind, tenant, (name, start, end, sorted(groups), sorted(lists.items())))
    first, last = _span(kind, width, start, end, now)
    if "page" in ones:
        first, last = _resume(ones["page"], mark)
    return Question(kind, first, last, width, limit, groups, lists, mark)


def _split(kind: Kind, query: str) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Lists (`name=`, or `name[]=` as OpenAI's SDK writes them) and single values, by name."""
    lists: dict[str, list[str]] = {}
    ones: dict[str, str] = {}
    many = ("group_by", *kind.filters)
    single = ("start_time", "end_time", "bucket_width", "limit", "page")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as error:
        raise QueryError("query", f"can't be read ({error})") from error
    for given, value in pairs:
        name = given.removesuffix("[]")
        if name not in many and given not in single:
            raise QueryError(given[:80], f"is not a parameter; {_allowed((*single, *many))}")
        if not value or "\0" in value:
            raise QueryError(name, "is empty, or has a NUL; leave it out or give it a value")
        if given in ones or value in lists.get(name, ()):
            raise QueryError(name, f"{value[:80]!r} is given a second time; allowed: once")
        if name in many:
            lists.setdefault(name, []).append(value)
        else:
            ones[name] = value
    for name, values in lists.items():
        if len(values) > _MOST_VALUES:
            raise QueryError(name, f"has {len(values)} values; allowed: up to {_MOST_VALUES}")
    return {name: tuple(values) for name, values in lists.items()}, ones


def _allowed(names: "Mapping[str, object] | tuple[str, ...]") -> str:
    return f"allowed: {', '.join(names)}"


def _number(ones: Mapping[str, str], name: str, least: int, most: int) -> int:
    value = ones[name]
    if not _WHOLE.fullmatch(value) or not least <= int(value) <= most:
        raise QueryError(name, f"{value[:80]!r} can't be used; allowed: {least} to {most}")
    return int(value)


def _seconds(ones: Mapping[str, str], name: str) -> int:
    return _number(ones, name, 0, LATEST)


def _span(kind: Kind, width: int, start: int, end: int | None, now: int) -> tuple[int, int]:
    """From which second to before which one: usage by the minute, costs by the day.

    Both grow to whole minutes, or days: what is asked for is never left out. Without an end it is
    that of the bucket which `now` is in."""
    grain = DAY if kind.money else MINUTE
    last = _up(now + 1, width) if end is None else _up(end, grain)
    return start - start % grain, last


def _up(at: int, grain: int) -> int:
    return -(-at // grain) * grain


def _mark(kind: Kind, tenant: str, asked: object) -> bytes:
    told = repr((kind.name, tenant, asked)).encode()
    return hashlib.blake2b(told, digest_size=8, person=b"usage-page").digest()


def page_token(question: Question, start: int) -> str:
    """Where the next page begins. It holds the end too: time that passes adds no bucket.

    It is checked against the question and the tenant and needs no secret: whoever made one up
    would ask for a time of their own usage, which `start_time` lets them do."""
    packed = _TOKEN.pack(start, question.end, question.mark)
    return "page_" + base64.urlsafe_b64encode(packed).decode()


def _resume(token: str, mark: bytes) -> tuple[int, int]:
    """Start and end of the page that a token names. Raises QueryError."""
    try:
        packed = base64.b64decode(token.removeprefix("page_"), altchars=b"-_", validate=True)
        start, end, told = _TOKEN.unpack(packed)
    except (binascii.Error, ValueError, struct.error) as error:
        raise QueryError("page", _NO_PAGE) from error
    if told != mark or not start < end <= LATEST + DAY or start % MINUTE or end % MINUTE:
        raise QueryError("page", _NO_PAGE)
    return start, end


_NO_PAGE = "is no page of this question; allowed: next_page of an answer, with nothing else changed"
