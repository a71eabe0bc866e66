"""An entry of the ledger as values: the event that was told, and what it costs."""

from typing import Any, NamedTuple

from tidegate_billing import money
from tidegate_billing.rates.meters import Used
from tidegate_billing.usage import Usage

FIELDS = Usage.__struct_fields__


class Rating(NamedTuple):
    """What an event costs, in the columns of the ledger."""

    rated_version: int
    cached_billed: int
    reasoning_billed: int
    amount_nano: int
    amount_atto: int
    currency: str

    @property
    def amount(self) -> int:
        """In atto."""
        return money.whole(self.amount_nano, self.amount_atto)

    def worth(self, amount: int) -> "Rating":
        """The same rating at another amount."""
        nano, rest = money.halves(amount)
        return self._replace(amount_nano=nano, amount_atto=rest)


def usage_of(row: Any) -> Usage:
    """The event that a row of the ledger was made of."""
    return Usage(**{name: getattr(row, name) for name in FIELDS})


def used(event: Usage) -> Used:
    """What an event measured."""
    return Used(
        event.prompt_tokens,
        event.cached_tokens if event.cached_known else None,
        event.completion_tokens,
        event.reasoning_tokens,
        event.audio_ms,
        event.images,
        requests(event),
        event.cold_start_ms,
        event.serving_ms,
        event.idle_tail_ms,
    )


def requests(event: Usage) -> int:
    """How many requests an event is: none asked for a replica's time."""
    return 0 if event.kind == "replica" else 1


def first_rating(row: Any) -> Rating | None:
    """What a row said when it was written; None: it wasn't billed, or had no price."""
    if row.rated_version is None:
        return None
    return Rating(
        row.rated_version,
        row.cached_billed,
        row.reasoning_billed,
        row.amount_nano,
        row.amount_atto,
        row.currency,
    )


def rating_before(adjustment: Any) -> Rating | None:
    """What an event cost until an adjustment; None: it was parked."""
    if adjustment.before_version is None:
        return None
    return Rating(
        adjustment.before_version,
        adjustment.before_cached,
        adjustment.before_reasoning,
        adjustment.before_nano,
        adjustment.before_atto,
        adjustment.before_currency,
    )


def rating_after(adjustment: Any) -> Rating:
    """What an event costs from an adjustment on."""
    return Rating(
        adjustment.after_version,
        adjustment.after_cached,
        adjustment.after_reasoning,
        adjustment.after_nano,
        adjustment.after_atto,
        adjustment.after_currency,
    )
