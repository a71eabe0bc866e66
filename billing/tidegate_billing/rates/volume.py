"""Volume: all units cost what the tier says that their sum falls into.

With 0.10 up to 1,000 and 0.05 after it, 1,500 units cost 1,500 x 0.05. So a total may become
cheaper when one more unit is used: 1,000 cost 100.00 and 1,001 cost 50.05. An event that crosses
such a boundary therefore costs less than nothing, and the sum over events is still the invoice.
"""

from fractions import Fraction

import msgspec

from tidegate_billing.rates import tiers
from tidegate_billing.rates.part import Part
from tidegate_billing.rates.tiers import Tier


class Volume(msgspec.Struct, frozen=True, tag="volume"):
    """Raises TierError where the tiers are no table."""

    tiers: tuple[Tier, ...]

    def __post_init__(self) -> None:
        """An impossible table is never built."""
        tiers.check(self.tiers)

    def cost(self, quantity: int) -> int:
        """What `quantity` costs from the first unit on. Only the reached tier's fee is charged."""
        return sum(part.amount for part in self.parts(quantity))

    def parts(self, quantity: int) -> tuple[Part, ...]:
        """The one tier that is reached; none where nothing was used."""
        if not quantity:
            return ()
        number, tier = next(
            (number, tier)
            for number, tier in enumerate(self.tiers, 1)
            if tier.up_to is None or quantity <= tier.up_to
        )
        return (Part(quantity, quantity, tier.unit, fee=tier.fee, tier=number),)

    def scaled(self, factor: Fraction) -> "Volume":
        """This price times a factor, fees too. Raises InexactError."""
        return Volume(tiers.scaled(self.tiers, factor))
