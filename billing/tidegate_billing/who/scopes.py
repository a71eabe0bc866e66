"""What a key may be used for: which models, which routes, how much.

A scope is over the names that callers send. A key for `qwen*` may not ask the same model by its
alias `default`: what a key may do can then be read from the key alone, whatever models come and go.
None means everything. A scope that can't be understood allows nothing.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta

ROUTE_OF: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
    "/v1/score": "score",
    "/v1/classify": "classify",
    "/v1/audio/transcriptions": "transcriptions",
}
"""A route's name by its path. What is not here is refused to a key that names its routes."""
USAGE: Final = "usage"
"""The tenant's own usage, costs and receipts: several paths, of all that the tenant does."""
ROUTES: Final = (*dict.fromkeys(ROUTE_OF.values()), USAGE)

LONGEST: Final = 253
MOST: Final = 100
STARS: Final = 4
"""Wildcards a glob may have: each multiplies the work that a hostile name can cause."""

Positive = Annotated[int, Meta(ge=1, le=1_000_000_000)]


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key's own limits; null: the tenant's alone count."""

    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    max_concurrency: Positive | None = None


def models_error(models: Sequence[str]) -> str | None:
    """What is wrong with a list of model names and globs, or None."""
    if not 1 <= len(models) <= MOST:
        return f"{len(models)} models; allowed: 1 to {MOST}, or null for all"
    for name in models:
        if not (1 <= len(name) <= LONGEST and name.isprintable() and " " not in name):
            allowed = f"1 to {LONGEST} printable characters without spaces"
            return f"{name[:80]!r} is not a model's name or glob; allowed: {allowed}"
        if name.count("*") > STARS:
            return f"{name[:80]!r} has too many wildcards; allowed: {STARS} of *, any number of ?"
    return None


def routes_error(routes: Sequence[str]) -> str | None:
    """What is wrong with a list of routes, or None."""
    unknown = [name for name in routes if name not in ROUTES]
    if unknown or not routes:
        shown = repr(unknown[0][:80]) if unknown else "an empty list"
        return f"{shown} is not a route; allowed: some of {', '.join(ROUTES)}, or null for all"
    return None


def matcher(models: Sequence[str]) -> Callable[[str], bool]:
    """Whether a name is one of these. Compiled once for a key; `*` is any text, `?` one character."""
    exact = frozenset(name for name in models if not _is_glob(name))
    globs = [_pattern(name) for name in models if _is_glob(name)]
    if not globs:
        return exact.__contains__
    either = re.compile("|".join(globs), re.DOTALL)

    def matches(name: str) -> bool:
        if name in exact:
            return True
        return len(name) <= LONGEST and either.fullmatch(name) is not None

    return matches


def _is_glob(name: str) -> bool:
    return "*" in name or "?" in name


def _pattern(glob: str) -> str:
    wild = {"*": ".*", "?": "."}
    return "".join(wild.get(character) or re.escape(character) for character in glob)
