"""Free allowance: the first units of a calendar month cost nothing, and the price begins after.

The allowance is in front of the tiers: they count what is left. A tenant with 1,000 units free
and a first tier of 5,000 pays the first tier's price for units 1,001 to 6,000. Were it the other
way round, the free units would use up the cheap or dear end of a table by accident of its order.

A month is the one of the attempt's id in UTC, as everywhere in the ledger. An allowance has no
clock: `before` starts at zero in a new month, and with it the free units.
"""

import msgspec

from tidegate_billing.rates.flat import Flat
from tidegate_billing.rates.graduated import Graduated
from tidegate_billing.rates.package import Package
from tidegate_billing.rates.part import Part
from tidegate_billing.rates.volume import Volume

Kind = Flat | Graduated | Volume | Package
"""The price kinds."""


class Allowed(msgspec.Struct, frozen=True, tag="allowed"):
    """`free` of the counted cost nothing, what comes after costs what `then` says."""

    free: int
    then: Kind

    def cost(self, quantity: int) -> int:
        """What `quantity` costs from the first unit on."""
        return self.then.cost(max(0, quantity - self.free))

    def parts(self, quantity: int) -> tuple[Part, ...]:
        """The free units as a line at no price, so that an invoice shows all that was used."""
        given = min(quantity, self.free)
        free = (Part(given, given, 0, free=True),) if given else ()
        return free + self.then.parts(quantity - given)


Price = Kind | Allowed
"""What a meter costs: a kind, or an allowance in front of one."""


def applied(price: Kind, free: int) -> Price:
    """`price` with the first `free` units of a month given away."""
    return Allowed(free, price) if free else price


def marginal(price: Price, before: int, quantity: int) -> int:
    """What `quantity` adds to the bill of a month that has seen `before`.

    The differences telescope: whatever the order and the cut of events, their sum is the cost of
    the total. This is the only place where a price meets a running count.
    """
    return price.cost(before + quantity) - price.cost(before)
