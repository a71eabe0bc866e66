"""Who waits for credit: in order, by pot and tenant, and dropped together."""

from types import SimpleNamespace
from typing import Any, cast

from tidegate_runtime.draw import Draw
from tidegate_runtime.waiters import TENANT_WAITS, Waiters
from tidegate_runtime.wallet import Rates


def request(*pots: str, tenant: str = "t") -> Any:
    draw = Draw(pots, Rates(1, 1), 1, None, 0.0)
    return cast("Any", SimpleNamespace(draw=draw, key=SimpleNamespace(tenant=tenant)))


def test_nobody_passes_who_waits_for_the_same_pot() -> None:
    waiters = Waiters()
    first, second = request("a", "b"), request("b")
    waiters.add(first)
    waiters.add(second)
    assert list(waiters) == [first, second]
    assert waiters.before(["b", "c"])
    assert not waiters.before(["c"])
    waiters.drop([first])
    assert not waiters.before(["a"])
    assert waiters.before(["b"])
    assert (first.draw.waits, second.draw.waits) == (False, True)
    waiters.drop([first, second])
    waiters.drop([second])
    assert not waiters.before(["a", "b"])
    assert len(waiters) == 0


def test_a_tenant_fills_its_own_places_and_no_others() -> None:
    waiters = Waiters()
    mine = [request("a") for _ in range(TENANT_WAITS)]
    for one in mine:
        assert not waiters.full("t")
        waiters.add(one)
    assert waiters.full("t")
    assert not waiters.full("u")
    waiters.drop(mine[:1])
    assert not waiters.full("t")
    assert list(waiters) == mine[1:]
