"""What one request draws on: its pots, what it may cost, and what it has reserved."""

from typing import Final

from tidegate_runtime.wallet import Quote, Rates, Reservation

CONTEXT: Final = 131_072
"""Tokens that an answer may have, as long as no replica has said how many its model can."""


class Draw:
    """What one request draws on, and what it has reserved there."""

    __slots__ = ("asked", "held", "pots", "prompt", "quote", "rates", "since")

    def __init__(
        self, pots: tuple[str, ...], rates: Rates, prompt: int, asked: int | None, since: float
    ) -> None:
        self.pots = pots
        self.rates = rates
        self.prompt = prompt
        self.asked = asked
        self.since = since
        self.quote = Quote(0)
        self.held: Reservation | None = None

    def cap(self, context: int) -> int | None:
        """The `max_tokens` to send on, where the caller's own (or the model's `context`) is more than what
        is reserved."""
        if self.held is None or not self.quote.each:
            return None
        most = self.asked
        if most is None:
            most = max(1, (context or CONTEXT) - self.prompt)
        return self.held.tokens if self.held.tokens < most else None
