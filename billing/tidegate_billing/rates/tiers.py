"""The table that graduated and volume prices share, and what makes it one.

A tier holds the quantities up to and with `up_to`: with `up_to` 1,000 the thousandth unit is in
it and the next one is not. The last tier has no end, so that no quantity is without a price.
"""

from fractions import Fraction
from typing import NamedTuple

from tidegate_billing.rates import exact


class TierError(ValueError):
    """A table leaves a quantity without a price, or with two; `place` counts from 0."""

    def __init__(self, place: int, said: str) -> None:
        super().__init__(said)
        self.place = place


class Tier(NamedTuple):
    """`unit`: atto for one of the counted. `fee`: charged once when the tier is reached."""

    up_to: int | None
    unit: int
    fee: int = 0


def check(tiers: tuple[Tier, ...]) -> None:
    """Raises TierError unless every quantity is in exactly one tier."""
    if not tiers:
        raise TierError(0, "there is no tier; allowed: one or more, the last without upTo")
    start = 0
    for place, tier in enumerate(tiers):
        last = place == len(tiers) - 1
        if last and tier.up_to is not None:
            raise TierError(place, "the last tier ends; allowed: a last tier without upTo")
        if not last and (tier.up_to is None or tier.up_to <= start):
            raise TierError(place, "upTo does not rise; allowed: more than the tier before has")
        start = tier.up_to or 0


def scaled(tiers: tuple[Tier, ...], factor: Fraction) -> tuple[Tier, ...]:
    """The table with every unit price and fee times a factor. Raises InexactError."""
    return tuple(
        Tier(tier.up_to, exact.times(tier.unit, factor), exact.times(tier.fee, factor))
        for tier in tiers
    )
