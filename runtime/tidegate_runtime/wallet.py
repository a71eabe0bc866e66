"""A router's wallet: the leases it holds, and what running requests have reserved of them.

Nothing here waits or asks: a request reserves its worst case at once, or learns what is missing,
and the shell asks billing (`tidegate_billing.leases`). A pot costs one object; a reservation is a
few additions of integers. Times are seconds of the loop's monotonic clock, amounts are atto.

    left of a lease = granted - spent - reserved

A reservation is what a request costs at most, if the prompt is as estimated: prompt and
`max_tokens x n`. Settling replaces it by the price of what the engine counted. So a lease is overrun
by the error of a prompt's estimate alone.

**The prompt's estimate** (`prompt_tokens`) is a third of the body's bytes, but two thirds of its digits
and of its bytes past ASCII, and 32 for the template. There is no tokenizer here: one per model would
cost more than all the rest of admission. Against SmolLM2's (49,152 tokens) the estimate is, of the truth:

    English, code 1.3   German 1.0   Russian 1.6   Chinese, Japanese, Thai 1.1   emoji 0.9
    JSON of numbers 0.7   digits 0.7   hex 0.6   base64 0.5

A byte-level tokenizer never makes more tokens than bytes, so the error is under two thirds of the body,
times the price of a prompt token. What is not in the body (a template's own prose, an image behind
an address) has to come with `extra`; an image inside the body counts as text, which is far too much.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

BYTES_PER_TOKEN: Final = 3
_DEAR: Final = b"0123456789" + bytes(range(0x80, 0x100))
TEMPLATE_TOKENS: Final = 32
UNBOUNDED_TOKENS: Final = 4096
"""What a request that names no `max_tokens` gets when its lease can't cover all that the model could
say. Reserving that would lock up the last credit for an answer that is rarely so long."""
MOST: Final = 10**60
"""What a request without pots has left: nobody's money is in question."""
REFILL: Final = 4
"""A lease asks ahead when less than this part (a quarter) of its last fill is left."""
DENIED_SECONDS: Final = 1.0
"""How long a refusal is believed without asking again."""
FORGET_SECONDS: Final = 660.0
"""Billing forgets a lease 10 minutes after its end."""
OVER_SECONDS: Final = 590.0
"""Ours end a little before billing's: a lease that ended longer ago, and is not renewed, it may have
forgotten. One that ended just now belongs to a pot that is over, and is counted to its end."""
EMPTY_SECONDS: Final = 3600.0
"""How long the word that a pot is empty is believed, unless it is filled."""


class Rates(NamedTuple):
    """Atto per token (and per request), at the dearest that may apply."""

    input: int
    output: int
    request: int = 0


class Quote(NamedTuple):
    """What a request may cost: `fixed`, and `each` for a token of all its answers. `tokens`: how many
    per answer it may have; `enough`: with how many it can be let in before more is asked for."""

    fixed: int
    each: int = 0
    tokens: int = 0
    enough: int = 0

    @property
    def worst(self) -> int:
        """All that was asked for."""
        return self.fixed + self.each * self.tokens

    @property
    def need(self) -> int:
        """What must be reserved before more is asked for."""
        return self.fixed + self.each * self.enough

    @property
    def least(self) -> int:
        """The smallest form: one token per answer."""
        return self.fixed + self.each * min(1, self.tokens)


class Reservation:
    """What one request holds of each of its pots, until it is settled or released, once.
    `tokens`: the `max_tokens` it was let in with."""

    __slots__ = ("amount", "pots", "tokens")

    def __init__(self, pots: tuple[str, ...], amount: int, tokens: int) -> None:
        self.pots = pots
        self.amount = amount
        self.tokens = tokens


class NeedMore(NamedTuple):
    """What is missing in each lease, for `need` and for `least`."""

    missing: Mapping[str, tuple[int, int]]


class Empty(NamedTuple):
    """This pot can't pay for the request: 402."""

    pot: str


class Lease:
    """One pot's lease. `granted` and `spent` only grow, but for what is given back."""

    __slots__ = (
        "asking",
        "denied",
        "denied_until",
        "ends",
        "full",
        "granted",
        "quiet_until",
        "reserved",
        "spent",
        "told",
    )

    def __init__(self) -> None:
        self.granted = self.spent = self.reserved = 0
        self.told = 0  # of `spent`, what billing knows since `holds`
        self.ends = 0.0
        self.full = 0  # what was left after the last fill
        self.asking = False
        self.denied = 0  # what a refusal said is free
        self.denied_until = 0.0
        self.quiet_until = 0.0  # nobody need ask ahead


class Wallet:
    """The leases of one router. `low`: pots to ask ahead for; who asks empties it."""

    def __init__(self) -> None:
        self._leases: dict[str, Lease] = {}
        self._empty: dict[str, float] = {}
        self._touched: set[str] = set()
        self.low: dict[str, int] = {}

    # Requests

    def reserve(
        self, pots: tuple[str, ...], quote: Quote, now: float
    ) -> Reservation | NeedMore | Empty:
        """Reserve a request's worst case in all of its pots, or in none. One without a bound of its own is content
        with `enough`."""
        left = self._least_left(pots, now)
        fixed, each, tokens, enough = quote
        if left >= fixed + each * tokens:
            return self._take(pots, quote, tokens, now)
        if left >= fixed + each * enough:
            return self._take(pots, quote, enough, now)
        return self._lacking(pots, quote, now)

    def squeeze(self, pots: tuple[str, ...], quote: Quote, now: float) -> Reservation | Empty:
        """Let a request in with as many tokens as its leases cover: billing has no more."""
        tokens = self.clamp(pots, quote, now)
        if tokens >= min(1, quote.tokens):
            return self._take(pots, quote, tokens, now)
        return Empty(min(pots, key=lambda pot: self.unused(pot, now)))

    def clamp(self, pots: tuple[str, ...], quote: Quote, now: float) -> int:
        """The largest `max_tokens` (of each answer) that the smallest lease affords; -1: not even
        the prompt. 0 is an answer only to a request that makes no tokens."""
        left = self._least_left(pots, now) - quote.fixed
        if left < 0:
            return -1
        return min(quote.tokens, left // quote.each) if quote.each else quote.tokens

    def settle(self, reservation: Reservation, actual: int) -> None:
        """A request ended and cost `actual`. A second call changes nothing."""
        amount, reservation.amount = reservation.amount, -1
        if amount < 0:
            return
        for pot in reservation.pots:
            lease = self._leases.get(pot) or self._lease(pot)
            lease.reserved -= amount
            lease.spent += actual
        self._touched.update(reservation.pots)

    def release(self, reservation: Reservation) -> None:
        """A request ended without costing anything."""
        self.settle(reservation, 0)

    def _least_left(self, pots: Iterable[str], now: float) -> int:
        """`unused` of the smallest, in one loop: every request comes by here."""
        least = MOST
        for pot in pots:
            lease = self._leases.get(pot)
            if lease is None or now >= lease.ends:
                return 0
            left = lease.granted - lease.spent - lease.reserved
            least = min(least, left)
        return max(0, least)

    def _take(self, pots: tuple[str, ...], quote: Quote, tokens: int, now: float) -> Reservation:
        fixed, each, _, _ = quote
        amount = fixed + each * tokens
        for pot in pots:
            lease = self._leases.get(pot) or self._lease(
                pot
            )  # what costs nothing needs none, and gets an empty one
            lease.reserved += amount
            left = lease.granted - lease.spent - lease.reserved
            quiet = max(lease.denied_until, lease.quiet_until)
            if left * REFILL < lease.full and not lease.asking and now >= quiet:
                self.low[pot] = max(quote.need, self.low.get(pot, 0))
        return Reservation(pots, amount, tokens)

    def _lacking(
        self, pots: tuple[str, ...], quote: Quote, now: float
    ) -> Reservation | NeedMore | Empty:
        missing = {}
        for pot in pots:
            left = self.unused(pot, now)
            lack = max(0, quote.least - left)
            if left >= quote.need:
                continue
            if not self._dry(pot, lack, now):
                missing[pot] = (quote.need - left, lack)
            elif lack:
                return Empty(pot)
        return NeedMore(missing) if missing else self.squeeze(pots, quote, now)

    def _dry(self, pot: str, lack: int, now: float) -> bool:
        """Whether we know that billing has not even so much."""
        if now < self._empty.get(pot, now):
            return True
        lease = self._leases.get(pot)
        return lease is not None and now < lease.denied_until and lease.denied < max(1, lack)

    # Questions and answers

    def ask(self, pots: Iterable[str], now: float) -> bool:
        """Whether a question about these pots may go out now; if so, it is under way, and ends with
        `granted` or `refused` for each. Else another one is: wait for its answer."""
        leases = [self._lease(pot) for pot in pots]
        if any(lease.asking for lease in leases):
            return False
        for lease in leases:
            lease.asking = True
            lease.denied_until = now
        return True

    def granted(self, pot: str, amount: int, ends: float) -> None:
        """Billing lent more. `ends` is counted from when the question went out, not from when its
        answer came: so we stop before billing thinks we do."""
        lease = self._lease(pot)
        lease.asking = False
        lease.granted += amount
        lease.ends = ends
        lease.full = max(0, lease.granted - lease.spent - lease.reserved)
        self._empty.pop(pot, None)

    def refused(self, pot: str, free: int, now: float) -> None:
        """Billing has no more than `free`; believed for a second, unless the pot is filled."""
        lease = self._lease(pot)
        lease.asking = False
        lease.denied = free
        lease.denied_until = now + DENIED_SECONDS

    def declined(self, pot: str, now: float) -> None:
        """Billing has nothing for who asks ahead. For who needs it there may be: others hold some."""
        lease = self._lease(pot)
        lease.asking = False
        lease.quiet_until = now + DENIED_SECONDS

    def unanswered(self, pot: str) -> None:
        """A question got no answer: the next may go."""
        self._lease(pot).asking = False

    def emptied(self, pot: str, now: float) -> None:
        """Billing told all: nothing is left, and nothing will come back. After an hour we ask again, so
        that pots whose window is over need no word from anybody to be forgotten."""
        self._empty[pot] = now + EMPTY_SECONDS

    def filled(self, pot: str) -> None:
        """Billing told all: there is something again."""
        self._empty.pop(pot, None)
        if (lease := self._leases.get(pot)) is not None:
            lease.denied_until = 0.0

    def pots(self) -> list[str]:
        """Of every lease that there is."""
        return list(self._leases)

    def unused(self, pot: str, now: float) -> int:
        """What is left of a lease that has not ended: neither spent nor reserved."""
        lease = self._leases.get(pot)
        if lease is None or now >= lease.ends:
            return 0
        return max(0, lease.granted - lease.spent - lease.reserved)

    def give_back(self, pot: str) -> int:
        """Part with all that is unused, for a recall; how much that was. An ended lease has some, too."""
        lease = self._leases.get(pot)
        if lease is None:
            return 0
        unused = max(0, lease.granted - lease.spent - lease.reserved)
        lease.granted -= unused
        lease.full = 0
        return unused

    def leftovers(self, now: float) -> dict[str, int]:
        """Part with what is unused of leases that have ended. Said once a second while connected, it keeps
        nothing back of a pot that is over (a window, a grant), though long answers still run on it."""
        ended = [pot for pot, one in self._leases.items() if one.granted and now >= one.ends]
        parted = {pot: self.give_back(pot) for pot in ended}
        return {pot: amount for pot, amount in parted.items() if amount}

    # The leases as a whole

    def renewed(self, asked: Iterable[str], ends: Mapping[str, float], now: float) -> None:
        """Billing prolonged these of the leases `asked` about. Others it has forgotten, which it does
        only long after their end: what we know to be alive it has lent meanwhile."""
        for pot in asked:
            lease = self._leases.get(pot)
            if lease is None:
                continue
            if pot in ends:
                lease.ends = ends[pot]
            elif now >= lease.ends + OVER_SECONDS:
                lease.granted = lease.spent = lease.full = 0

    def holds(self) -> dict[str, int]:
        """What we hold, reserved or not: true for billing once our journal is shipped. Until `kept`
        brings the answer no question is under way, nothing is given back, and no batch says `spent`."""
        held = {}
        for pot, lease in self._leases.items():
            lease.told = lease.spent
            if lease.granted > lease.spent:
                held[pot] = lease.granted - lease.spent
        return held

    def kept(self, kept: Mapping[str, int], ends: float) -> None:
        """Billing's answer to `holds`: all counts start anew from what we may keep. What was spent
        since we told is in no journal yet that billing has seen."""
        for pot, lease in self._leases.items():
            lease.spent -= lease.told
            lease.granted = kept.get(pot, 0)
            lease.told = lease.full = 0
            lease.ends = ends

    def sweep(self, now: float) -> None:
        """Forget leases that ended so long ago that billing has forgotten them, too."""
        for pot, lease in list(self._leases.items()):
            past = now >= max(lease.ends + FORGET_SECONDS, lease.denied_until)
            if past and not lease.reserved and not lease.asking and pot not in self._touched:
                del self._leases[pot]
        self._empty = {pot: until for pot, until in self._empty.items() if now < until}

    def spent(self) -> dict[str, int]:
        """What leases have paid for since they began, where that has changed since we last said it. Taken
        when a batch of the journal is cut, it stays with that batch until it is acknowledged."""
        touched, self._touched = self._touched, set()
        return {pot: self._leases[pot].spent for pot in touched if pot in self._leases}

    def _lease(self, pot: str) -> Lease:
        lease = self._leases.get(pot)
        if lease is None:
            lease = self._leases[pot] = Lease()
        return lease


def prompt_tokens(body: bytes, extra: int = 0) -> int:
    """About how many tokens a request's prompt has (see above)."""
    dear = len(body) - len(body.translate(None, _DEAR))
    return -(-(len(body) + dear) // BYTES_PER_TOKEN) + TEMPLATE_TOKENS + extra


def quote(
    rates: Rates, prompt: int, *, choices: int, max_tokens: int | None, longest: int
) -> Quote:
    """What a request with an estimated `prompt` may cost. `choices`: answers in all (`n`, for each
    prompt). `longest`: tokens that one answer of this model can have at most; 0: it makes none."""
    fixed = rates.request + rates.input * prompt
    if not longest:
        return Quote(fixed)
    tokens = longest if max_tokens is None else min(max_tokens, longest)
    enough = min(tokens, UNBOUNDED_TOKENS) if max_tokens is None else tokens
    return Quote(fixed, rates.output * choices, tokens, enough)


def price(rates: Rates, prompt: int, completion: int) -> int:
    """What an engine's counts cost: what `settle` takes."""
    return rates.request + rates.input * prompt + rates.output * completion
