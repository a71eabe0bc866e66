"""What is counted, in which unit, and what of it a price is said for.

Three numbers make a meter. What is *counted* is so fine that a price with twelve decimals is a
whole number of atto for one of it. A *unit* is what people say tiers, packages and allowances in.
A price is for `per` units: a million tokens, a second, an image, a request.

| meter | counted | one unit | a price is for |
|---|---|---|---|
| input, cached_input, output, reasoning | tokens | 1 | 1,000,000 tokens |
| audio_second | milliseconds | 1,000 | 1 second |
| image, request | images, requests | 1 | 1 |
| replica_second | hundredths of a millisecond | 100,000 | 1 second |

The hundredths are why a split phase loses nothing. If the customer carries 50 % of a cold start,
50 hundredths of each of its milliseconds are the customer's and 50 are ours: whole numbers that
add up to all of it, however the time was cut into events. Half of a millisecond, rounded per
event, would depend on the cut.
"""

from typing import Final, NamedTuple

TOKENS: Final = 1_000_000
"""Tokens that a price is said for."""


class Meter(NamedTuple):
    """`name`: the kind of an invoice's line. `field`: its name in documents."""

    name: str
    field: str
    unit: str
    counted: int
    per: int
    spoken: str

    @property
    def shift(self) -> int:
        """How many of the counted a price is for."""
        return self.counted * self.per


METERS: Final = (
    Meter("input", "input", "token", 1, TOKENS, "million tokens"),
    Meter("cached_input", "cachedInput", "token", 1, TOKENS, "million tokens"),
    Meter("output", "output", "token", 1, TOKENS, "million tokens"),
    Meter("reasoning", "reasoning", "token", 1, TOKENS, "million tokens"),
    Meter("audio_second", "audioSecond", "second", 1_000, 1, "second"),
    Meter("image", "image", "image", 1, 1, "image"),
    Meter("request", "request", "request", 1, 1, "request"),
    Meter("replica_second", "replicaSecond", "second", 100_000, 1, "second"),
)
INPUT, CACHED_INPUT, OUTPUT, REASONING, AUDIO, IMAGE, REQUEST, REPLICA = range(len(METERS))
PLACES: Final = {meter.field: place for place, meter in enumerate(METERS)}

FOLDS: Final = {CACHED_INPUT: INPUT, REASONING: OUTPUT}
"""A part, and the whole it bills as where it has no price of its own."""
MADE: Final = (INPUT, OUTPUT, AUDIO, IMAGE)
"""What a model takes in and makes. Where such a quantity has no price, the event has none: it
waits for one and is never free by omission (who gives it away writes "0"). Requests and replica
seconds are on top: they bill only where a book prices them."""


class Quantities(NamedTuple):
    """The counted of each meter, disjoint, in the order of METERS."""

    input: int = 0
    cached_input: int = 0
    output: int = 0
    reasoning: int = 0
    audio_second: int = 0
    image: int = 0
    request: int = 0
    replica_second: int = 0


NOTHING: Final = Quantities()


class Used(NamedTuple):
    """What one event measured. `cached` None: the engine did not say, which is not zero.

    `reasoning` is a part of `completion`, `cached` one of `prompt`; the rest stand apart.
    """

    prompt: int = 0
    cached: int | None = None
    completion: int = 0
    reasoning: int = 0
    audio_ms: int = 0
    images: int = 0
    requests: int = 0
    cold_start_ms: int = 0
    serving_ms: int = 0
    idle_tail_ms: int = 0


class Shares(NamedTuple):
    """The customer's percent of a replica's phases: charge is 100, absorb is 0, split is between.

    Serving has no share. It is what the price is for; who gives it away does not price it.
    """

    cold_start: int
    idle_tail: int


FREE: Final = Shares(0, 0)


class Apart(NamedTuple):
    """Which parts bill apart from their whole, and whose a replica's phases are."""

    cached: bool
    reasoning: bool
    shares: Shares = FREE


def quantities(used: Used, apart: Apart) -> Quantities:
    """Each token, millisecond, image and request of `used` once.

    Engines have reported more cached tokens than there was prompt. A part is therefore never
    more than its whole, so that input and output cannot turn negative.
    """
    prompt, cached, completion, reasoning, audio, images, requests, cold, serving, idle = used
    cached = min(cached, prompt) if cached is not None and apart.cached else 0
    reasoning = min(reasoning, completion) if apart.reasoning else 0
    return Quantities(
        prompt - cached,
        cached,
        completion - reasoning,
        reasoning,
        audio,
        images,
        requests,
        replica_time(apart.shares, cold, serving, idle),
    )


def replica_time(shares: Shares, cold_ms: int, serving_ms: int, idle_ms: int) -> int:
    """What of a replica's time is the customer's, in hundredths of a millisecond.

    A sum of times has the sum of their shares: it does not matter how the time was cut."""
    return 100 * serving_ms + shares.cold_start * cold_ms + shares.idle_tail * idle_ms


def absorbed(used: Used, shares: Shares) -> int:
    """What of a replica's time is ours, in hundredths of a millisecond.

    Together with `Quantities.replica_second` it is all of it.
    """
    return (100 - shares.cold_start) * used.cold_start_ms + (
        100 - shares.idle_tail
    ) * used.idle_tail_ms


def summed(left: Quantities, right: Quantities) -> Quantities:
    """The quantities of both."""
    return Quantities(*(one + other for one, other in zip(left, right, strict=True)))
