"""What one request draws on: its pots, what it may cost, and what it has reserved.

What is sent on bounds an answer by what is reserved, and by nothing that a caller can bend: the prompt's
estimate is only asked how much of the context it may leave, since engines refuse (vLLM: 400) a limit that
doesn't fit beside the prompt. With no limit of the caller's own there is always one of ours, unless the whole
context is reserved.
"""

from typing import Final

from tidegate_runtime.wallet import Quote, Rates, Reservation

ROOM: Final = 8
"""However long a prompt seems, this part of the context (an eighth) is asked for the answer."""
CONTEXT: Final = 131_072
"""Tokens that an answer may have, as long as no replica has said how many its model can."""


class Draw:
    """What one request draws on, and what it has reserved there."""

    __slots__ = ("asked", "held", "pots", "prompt", "quote", "rates", "since", "waits")

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
        self.waits = False

    def cap(self, context: int) -> int | None:
        """The `max_tokens` to send on, where the caller's own (or the model's `context`) is more than what
        is reserved."""
        if self.held is None or not self.quote.each:
            return None
        if self.asked is not None:
            return self.held.tokens if self.held.tokens < self.asked else None
        context = context or CONTEXT
        if self.held.tokens >= context:
            return None
        return min(self.held.tokens, max(context - self.prompt, context // ROOM))
