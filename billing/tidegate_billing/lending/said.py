"""What routers and billing say to each other of pots and leases (ADR 13), as JSON.

router <- billing   in the snapshot: PotView, RateView; `recall`: names of pots to give back from
router -> billing   POST /internal/leases/ask    LeaseAsk -> LeaseAnswer
router -> billing   POST /internal/leases/back   LeaseBack (of its own accord, or recalled)
router -> billing   POST /internal/leases/renew  LeaseRenewal -> LeaseTerms
router -> billing   with each usage batch        LeaseWord -> LeaseKept in its answer

Amounts are decimal strings of the pot's currency; times that last are microseconds from the
question on, so that no two clocks are compared. A session is one unbroken life of a router's leases: after
anything that it did not hear the answer of, it begins another one (`LeaseWord.holds`), and what was said in the
old one is refused (409) however late it comes.
"""

import msgspec


class PotView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pot, and what it pays for: all of a tenant, of its `project` or of its key `key_id`, in a
    currency, from `since` (microseconds since the epoch) on. A pot that follows another one has the same name up to
    the last colon. `limit`: what was put into it; where that changes, a no of before means nothing any more.
    `empty`: nothing is left, and nothing can come back."""

    name: str
    tenant: str
    currency: str
    project: str = ""
    key_id: str = ""
    since: int = 0
    limit: str = ""
    empty: bool = False


class RateView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a deployment costs at most: per token, and per request. `tenant` empty: everybody who has
    no line of his own."""

    deployment: str
    currency: str
    input: str
    output: str
    request: str = "0"
    tenant: str = ""


class LeaseAsk(msgspec.Struct, frozen=True, kw_only=True):
    """`wants`: by pot, what is missing for the request at its worst, and for its smallest form.
    `ahead`: nobody waits."""

    router: str
    session: int
    wants: dict[str, tuple[str, str]]
    ahead: bool = False


class LeaseAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """All pots `granted`, and when the leases end; or none, and what is free of those that can't
    (`refused`)."""

    granted: dict[str, str] = {}
    ends_in: dict[str, int] = {}
    refused: dict[str, str] = {}


class LeaseBack(msgspec.Struct, frozen=True, kw_only=True):
    """By pot, what the router holds less; "0" answers a recall of what is all in use."""

    router: str
    session: int
    back: dict[str, str]


class LeaseRenewal(msgspec.Struct, frozen=True, kw_only=True):
    """A router is there, and goes on with what it holds."""

    router: str
    session: int


class LeaseTerms(msgspec.Struct, frozen=True, kw_only=True):
    """When leases end. A pot that isn't named is over, or no longer lent."""

    ends_in: dict[str, int]


class LeaseWord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a usage batch says of leases, as of its last record. `holds`: a session begins, with this in
    hand; else `spent` so far since it began, where that has changed."""

    router: str
    session: int
    spent: dict[str, str] = {}
    holds: dict[str, str] | None = None


class LeaseKept(msgspec.Struct, frozen=True, kw_only=True):
    """What of `holds` the router may keep, and until when."""

    kept: dict[str, str]
    ends_in: int
