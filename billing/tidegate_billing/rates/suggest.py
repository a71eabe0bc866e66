"""What a model costs elsewhere, as the draft of a book. It suggests and never prices.

The numbers are from `genai-prices`, a list of providers' public prices that says of itself that
it is not always accurate. So a draft is a document for a person to read: it has no time from which
it is in force, and a book without one is refused (`book.parse`). Nothing here is called while
usage is rated, and the package is imported only when somebody asks.

What the package prices and a book cannot say is a note and not in the draft: a price that rises
for a long prompt is a price per request, which is no tier of a month.
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Context, Decimal, Inexact, InvalidOperation
from importlib.metadata import version
from typing import Final, NamedTuple

PACKAGE: Final = "genai-prices"
EXACT: Final = Context(prec=60, traps=[Inexact, InvalidOperation])
DECIMALS: Final = 12
FIELDS: Final = {
    "input_mtok": ("input", 1),
    "cache_read_mtok": ("cachedInput", 1),
    "output_mtok": ("output", 1),
    "output_reasoning_mtok": ("reasoning", 1),
    "input_audio_hours": ("audioSecond", 3600),
    "requests_kcount": ("request", 1000),
}
"""The package's prices that a book has a meter for, and what one of them is divided by."""


class Suggestion(NamedTuple):
    """`document`: a book without a time. `notes`: what was left out of it, and why."""

    document: dict[str, object]
    provenance: dict[str, str]
    notes: tuple[str, ...]


class NoSuggestion(LookupError):
    """The list does not have the model, or no price of it that a book could have."""


def suggest(model: str, *, now: datetime, provider: str | None = None) -> Suggestion:
    """The draft of a book for `model`, by the prices in force at `now`. Raises NoSuggestion."""
    from genai_prices import Usage, calc_price

    try:
        found = calc_price(Usage(), model, provider_id=provider, genai_request_timestamp=now)
    except LookupError as error:
        raise NoSuggestion(f"{PACKAGE} has no price for {model!r}: {error}") from None
    prices, notes = drafted(vars(found.model_price))
    if not prices:
        raise NoSuggestion(f"{PACKAGE} has no price for {model!r} that a book could have")
    release = version(PACKAGE)
    return Suggestion(
        document={
            "name": f"draft from {PACKAGE} {release}: {found.provider.id} {found.model.id}",
            "currency": "USD",
            "effectiveFrom": "",
            "entries": [{"model": model, "prices": prices}],
        },
        provenance={
            "package": PACKAGE,
            "version": release,
            "provider": found.provider.id,
            "model": found.model.id,
            "at": now.isoformat(),
            "comment": found.model.price_comments or "",
        },
        notes=notes,
    )


def drafted(listed: Mapping[str, object]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The prices of an entry, and notes on what has no place in one."""
    prices: dict[str, str] = {}
    notes = []
    for name, value in sorted(listed.items()):
        if value is None:
            continue
        field, divisor = FIELDS.get(name, ("", 1))
        if not field:
            notes.append(f"{name} {value}: a book has no such meter")
            continue
        base = value if isinstance(value, Decimal) else getattr(value, "base", None)
        text = None if base is None else written(base, divisor)
        if text is None:
            notes.append(f"{name} {value}: no price with at most {DECIMALS} decimals")
            continue
        prices[field] = text
        if base is not value:
            notes.append(f"{name} {value}: only the base is in the draft; it rises with a prompt")
    for part, whole in (("cachedInput", "input"), ("reasoning", "output")):
        if part in prices and whole not in prices:
            notes.append(f"{part} {prices.pop(part)}: a book prices it beside {whole} only")
    return prices, tuple(notes)


def written(price: Decimal, divisor: int) -> str | None:
    """A listed price for one unit, as a document writes it; None: it would have to be rounded."""
    try:
        quotient = EXACT.divide(price, Decimal(divisor))
        text = format(quotient.quantize(Decimal(1).scaleb(-DECIMALS), context=EXACT), "f")
    except (Inexact, InvalidOperation):
        return None
    return text.rstrip("0").rstrip(".")
