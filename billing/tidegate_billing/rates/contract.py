"""A tenant's terms: one document, one version, in force from a time on.

```yaml
tenant: acme
currency: USD
effectiveFrom: "2026-01-01T00:00:00Z"
discount: "15"
minimumCommitment: "500.00"
overrides:
  - model: qwen3-0.6b
    allowance: {input: 1000000}
```

An override with prices is an entry of this tenant's own and replaces the book's as a whole. One
without prices changes the free units or the discount and leaves the book's prices as they are.
"""

from fractions import Fraction

from tidegate_billing import money
from tidegate_billing.rates import commitment, discount, reading
from tidegate_billing.rates.document import ContractShape, EntryShape, OverrideShape, Reader
from tidegate_billing.rates.problem import DocumentError
from tidegate_billing.rates.terms import Contract, Override


def parse(document: object) -> Contract:
    """A contract. Raises DocumentError.

    Whether its discounts leave every price exact depends on the books: `pipeline.check` tells,
    and a contract or a book is taken only where it has nothing to say.
    """
    reader = Reader()
    shape = reader.shape("", document, ContractShape)
    if shape is None:
        raise DocumentError(tuple(reader.problems))
    currency = reading.currency(reader, "currency", shape.currency)
    contract = Contract(
        tenant=shape.tenant,
        currency=currency,
        effective_from=reading.moment(reader, "effectiveFrom", shape.effective_from),
        discount=_discount(reader, "discount", shape.discount),
        minimum=_minimum(reader, shape.minimum_commitment, currency),
        overrides=_overrides(reader, shape.overrides),
    )
    reader.done()
    return contract


def _discount(reader: Reader, path: str, percent: str) -> Fraction:
    try:
        return discount.parse(percent)
    except money.MoneyError as error:
        reader.wrong(path, str(error))
        return Fraction(1)


def _minimum(reader: Reader, text: str, currency: str) -> int:
    minimum = reader.amount("minimumCommitment", text)
    try:
        commitment.check(minimum, currency)
    except money.MoneyError as error:
        reader.wrong("minimumCommitment", str(error))
    return minimum


def _overrides(reader: Reader, values: list[object]) -> tuple[Override, ...]:
    found: list[Override] = []
    for place, value in enumerate(values):
        path = f"overrides[{place}]"
        shape = reader.shape(path, value, OverrideShape)
        if shape is None:
            continue
        override = _override(reader, path, shape)
        if any((one.model, one.adapter) == (override.model, override.adapter) for one in found):
            said = f"{shape.model!r} has two; allowed: one override for a model and an adapter"
            reader.wrong(path, said)
        found.append(override)
    return tuple(found)


def _override(reader: Reader, path: str, shape: OverrideShape) -> Override:
    left = None
    if shape.discount is not None:
        left = _discount(reader, f"{path}.discount", shape.discount)
    adapter = shape.adapter or ""
    if shape.prices is not None:
        priced = EntryShape(
            shape.model,
            shape.prices,
            shape.adapter,
            shape.allowance or {},
            shape.service_tiers,
            shape.replica,
        )
        entry = reading.entry(reader, path, priced)
        return Override(model=shape.model, adapter=adapter, entry=entry, discount=left)
    if shape.service_tiers or shape.replica is not None:
        said = "belongs to prices; allowed: beside prices"
        reader.wrong(f"{path}.{'serviceTiers' if shape.service_tiers else 'replica'}", said)
    if shape.allowance is None and left is None:
        reader.wrong(path, "changes nothing; allowed: prices, allowance or discount")
    free = None
    if shape.allowance is not None:
        free = reading.allowance(reader, f"{path}.allowance", shape.allowance)
    return Override(model=shape.model, adapter=adapter, free=free, discount=left)
