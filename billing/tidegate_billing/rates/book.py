"""A price book: one document, one version, in force from a time on.

```yaml
name: list-2026
currency: USD
effectiveFrom: "2026-01-01T00:00:00Z"
entries:
  - model: qwen3-0.6b
    prices: {input: "0.10", cachedInput: "0.02", output: "0.40"}
```

`parse` takes the document as JSON or YAML gives it, and refuses it as a whole with everything that
is wrong in it. `docs/prices.md` is the reference.
"""

from tidegate_billing.links import Pricing
from tidegate_billing.rates import pipeline, reading
from tidegate_billing.rates.document import BookShape, EntryShape, Reader
from tidegate_billing.rates.problem import DocumentError
from tidegate_billing.rates.terms import Book, Entry

OWN = "pricing"
"""The name of a book that a deployment's own pricing makes, and the path of its mistakes."""


def parse(document: object) -> Book:
    """A book whose every rate is exact. Raises DocumentError."""
    reader = Reader()
    shape = reader.shape("", document, BookShape)
    if shape is None:
        raise DocumentError(tuple(reader.problems))
    entries = []
    for place, value in enumerate(shape.entries):
        path = f"entries[{place}]"
        found = reader.shape(path, value, EntryShape)
        if found is not None:
            entries.append(reading.entry(reader, path, found))
            _twice(reader, path, entries)
    book = Book(
        name=shape.name,
        currency=reading.currency(reader, "currency", shape.currency),
        effective_from=reading.moment(reader, "effectiveFrom", shape.effective_from),
        entries=tuple(entries),
    )
    reader.done()
    reader.problems.extend(pipeline.check([book]))
    reader.done()
    return book


def _twice(reader: Reader, path: str, entries: list[Entry]) -> None:
    *earlier, last = entries
    if (last.model, last.adapter) in {(entry.model, entry.adapter) for entry in earlier}:
        said = f"{last.model!r} is priced twice; allowed: one entry for a model and an adapter"
        reader.wrong(path, said)


def from_pricing(model: str, pricing: Pricing) -> Book:
    """What a ModelDeployment says of itself, as a book of one entry. Raises DocumentError.

    It has no times of its own: its versions begin when the resource changes.
    """
    prices = Reader()
    named = {"input": pricing.input_per_million, "output": pricing.output_per_million}
    if pricing.cached_input_per_million is not None:
        named["cachedInput"] = pricing.cached_input_per_million
    found = reading.prices(prices, OWN, named)
    reader = Reader()
    for path, said in prices.problems:
        reader.wrong(f"{path}PerMillion", said)
    currency = reading.currency(reader, f"{OWN}.currency", pricing.currency)
    reader.done()
    return Book(name=OWN, currency=currency, entries=(Entry(model=model, prices=found),))
