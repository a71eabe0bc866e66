"""What a deployment says of its own price: read exactly, or refused by the field's name."""

import pytest

from tidegate_billing import price
from tidegate_billing.links import Pricing
from tidegate_billing.price import PriceError


@pytest.mark.parametrize(
    ("pricing", "field"),
    [
        (Pricing(currency="usd"), "currency"),
        (Pricing(currency="DOLLAR"), "currency"),
        (Pricing(input_per_million="-1"), "inputPerMillion"),
        (Pricing(output_per_million="1e3"), "outputPerMillion"),
        (Pricing(output_per_million="NaN"), "outputPerMillion"),
        (Pricing(input_per_million=""), "inputPerMillion"),
        (Pricing(input_per_million="1."), "inputPerMillion"),
        (Pricing(input_per_million="0." + "1" * 13), "inputPerMillion"),
        (Pricing(cached_input_per_million="٣"), "cachedInputPerMillion"),
    ],
)
def test_a_price_that_cannot_be_used_is_named(pricing: Pricing, field: str) -> None:
    with pytest.raises(PriceError, match=rf"pricing\.{field} .*allowed:"):
        price.parse(pricing)


def test_a_price_is_atto_per_token() -> None:
    at = price.parse(Pricing(input_per_million="0.10", output_per_million="0.000000000001"))
    assert (at.input, at.output, at.cached_input) == (10**11, 1, None)
    assert price.per_million(at.input) == "0.1"
