"""Flat: each unit costs the same."""

from fractions import Fraction

import msgspec

from tidegate_billing.rates import exact
from tidegate_billing.rates.part import Part


class Flat(msgspec.Struct, frozen=True, tag="flat"):
    """`unit`: atto for one of the counted."""

    unit: int

    def cost(self, quantity: int) -> int:
        """What `quantity` costs from the first unit on."""
        return self.unit * quantity

    def parts(self, quantity: int) -> tuple[Part, ...]:
        """The one line of it; none where nothing was used."""
        return (Part(quantity, quantity, self.unit),) if quantity else ()

    def scaled(self, factor: Fraction) -> "Flat":
        """This price times a factor. Raises InexactError."""
        return Flat(exact.times(self.unit, factor))
