"""docs/budgets.md: its receiver verifies what we sign, and its table names what there is."""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tidegate_billing import alerts, deliveries, destinations
from tidegate_billing.webhooks import endpoint_routes, signing, worker

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "budgets.md").read_text()


@pytest.fixture
def verify() -> Callable[..., str]:
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    found: Callable[..., str] = names["verify"]
    return found


def test_the_receiver_in_the_docs_knows_what_we_signed(verify: Callable[..., str]) -> None:
    old, new = (alerts.make_secret(bytes([number]) * 24) for number in (1, 2))
    now = time.time_ns() // 1000
    sent = alerts.message(alerts.CREDIT_LOW, now, {"tenant": "acme"}, 1)
    headers = alerts.headers([new, old], sent, now)
    assert verify(old, headers, sent.body) == verify(new, headers, sent.body) == sent.id
    other = alerts.make_secret(b"x" * 24)
    late = alerts.headers([new], sent, now - 301_000_000)
    for wrong in (
        (other, headers, sent.body),
        (new, headers, sent.body + b" "),
        (new, late, sent.body),
    ):
        with pytest.raises(ValueError, match=r"signed|old"):
            verify(*wrong)


def test_the_tables_say_what_the_code_does() -> None:
    for kind in (alerts.BUDGET, alerts.CREDIT_LOW, alerts.CREDIT_EXHAUSTED, endpoint_routes.TEST):
        assert f"| `{kind}` |" in TEXT
    for policy in destinations.POLICIES:
        assert f"| `{policy}` |" in TEXT
    waits = [deliveries.wait(tries) // deliveries.SECOND for tries in range(1, 10)]
    assert waits == [10, 30, 90, 270, 810, 2430, 7290, 21_870, 43_200]
    assert (deliveries.TIMEOUT_SECONDS, worker.EACH, signing.MOST) == (15, 2, 5)
