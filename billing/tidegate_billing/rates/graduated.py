"""Graduated: each unit costs what the tier says that it falls into.

With 0.10 up to 1,000 and 0.05 after it, 1,500 units cost 1,000 x 0.10 + 500 x 0.05. A tier's fee
is charged once, with the first unit in it. Nothing used costs nothing, also where the first tier
has a fee: an invoice over no usage has no line that could explain it.
"""

from fractions import Fraction

import msgspec

from tidegate_billing.rates import tiers
from tidegate_billing.rates.part import Part
from tidegate_billing.rates.tiers import Tier


class Graduated(msgspec.Struct, frozen=True, tag="graduated"):
    """Raises TierError where the tiers are no table."""

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        """An impossible table is never built."""
        tiers.check(self.tiers)

    def cost(self, quantity: int) -> int:
        """What `quantity` costs from the first unit on."""
        return sum(part.amount for part in self.parts(quantity))

    def parts(self, quantity: int) -> tuple[Part, ...]:
        """One line per tier that is reached."""
        reached = []
        start = 0
        for number, tier in enumerate(self.tiers, 1):
            if quantity <= start:
                break
            end = quantity if tier.up_to is None else min(quantity, tier.up_to)
            reached.append(Part(end - start, end - start, tier.unit, fee=tier.fee, tier=number))
            start = end
        return tuple(reached)

    def scaled(self, factor: Fraction) -> "Graduated":
        """This price times a factor, fees too. Raises InexactError."""
        return Graduated(tiers.scaled(self.tiers, factor))
