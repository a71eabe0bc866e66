"""Package: units are sold in packages of a size; one that is begun is paid.

With 100 images for 2.00, one image costs 2.00, 100 cost 2.00 and 101 cost 4.00. The event that
opens a package carries its price, those that use it up cost nothing.
"""

from fractions import Fraction

import msgspec

from tidegate_billing.rates import exact
from tidegate_billing.rates.part import Part


class Package(msgspec.Struct, frozen=True, tag="package"):
    """`size`: how many of the counted, at least 1. `price`: atto for one package."""

    size: int
    price: int

    def __post_init__(self) -> None:
        """A package of nothing is never built."""
        if self.size < 1:
            raise ValueError("a package holds nothing; allowed: a size from 1")

    def cost(self, quantity: int) -> int:
        """What `quantity` costs from the first unit on."""
        return self._begun(quantity) * self.price

    def parts(self, quantity: int) -> tuple[Part, ...]:
        """The one line of it; none where nothing was used."""
        if not quantity:
            return ()
        return (Part(quantity, self._begun(quantity), self.price, size=self.size),)

    def scaled(self, factor: Fraction) -> "Package":
        """This price times a factor; the size stays. Raises InexactError."""
        return Package(self.size, exact.times(self.price, factor))

    def _begun(self, quantity: int) -> int:
        return -(-quantity // self.size)
