"""A part of a quantity that has one price: what becomes a line of an invoice."""

from typing import NamedTuple


class Part(NamedTuple):
    """`blocks` times `price`, and a `fee`.

    `quantity`: how many of the counted are in it. `size`: how many of them a block is: 1, or a
    package. `tier`: its number from 1; 0: the price has no tiers. `free`: an allowance.
    """

    quantity: int
    blocks: int
    price: int
    size: int = 1
    fee: int = 0
    tier: int = 0
    free: bool = False

    @property
    def amount(self) -> int:
        """What it costs, exactly, in atto."""
        return self.blocks * self.price + self.fee
