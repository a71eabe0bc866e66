"""Billing is told the whole list, in one call at a time, and again when something changed."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from tidegate_billing.links import ModelPricing, PricedModel
from tidegate_operator.kube.prices import LONGEST_PAUSE, SHARE, Prices
from tidegate_operator.local.billing import BillingError


def pricing(name: str, owner: str = "team") -> ModelPricing:
    return ModelPricing(deployment=name, model=name, owner=owner, pricing=None, adapters=[])


class Billing:
    """Answers when the test lets it."""

    def __init__(self) -> None:
        self.lists: list[list[str]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.error = ""

    async def price(self, models: list[ModelPricing]) -> list[PricedModel]:
        self.lists.append([one.deployment for one in models])
        await self.open.wait()
        if self.error:
            raise BillingError(self.error)
        return [PricedModel(deployment=one.deployment, priced=True) for one in models]


class Site:
    """What `Prices` is bound to."""

    def __init__(self) -> None:
        self.billing = Billing()
        self.models = {name: pricing(name) for name in ("one", "two", "three")}
        self.changed: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.prices = Prices(
            self.billing,  # type: ignore[arg-type]
            lambda: list(self.models.values()),
            self.changed.append,
            self._spawn,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return self.tasks[-1]

    async def settled(self) -> None:
        await asyncio.gather(*self.tasks)


@pytest.fixture
async def site() -> Site:
    return Site()


async def test_one_that_is_new_leads_to_a_list_of_all(site: Site) -> None:
    site.prices.tell(site.models["two"])
    await site.settled()
    assert site.billing.lists == [["one", "two", "three"]]
    assert site.changed == ["one", "two", "three"]
    for model in site.models.values():
        site.prices.tell(model)
    await site.settled()
    assert len(site.billing.lists) == 1
    answer = site.prices.of("one").answer
    assert answer is not None
    assert answer.priced


async def test_what_changes_during_a_call_is_told_by_one_more(site: Site) -> None:
    site.billing.open.clear()
    site.prices.tell(site.models["one"])
    while not site.billing.lists:
        await asyncio.sleep(0)
    site.models["four"] = pricing("four")
    site.prices.tell(site.models["four"])
    del site.models["two"]
    site.prices.forget("two", tell=True)
    site.billing.open.set()
    await site.settled()
    assert site.billing.lists == [["one", "two", "three"], ["one", "three", "four"]]
    assert site.prices.of("two").answer is None


async def test_what_went_is_left_out_of_the_next_list(site: Site) -> None:
    site.prices.tell(site.models["one"])
    await site.settled()
    del site.models["three"]
    site.prices.forget("three", tell=True)
    await site.settled()
    assert site.billing.lists[-1] == ["one", "two"]


async def test_a_refusal_is_told_to_all_and_not_asked_again_at_once(site: Site) -> None:
    site.billing.error = "400 no"
    site.prices.tell(site.models["one"])
    await site.settled()
    site.prices.tell(site.models["one"])
    site.prices.remind()
    await site.settled()
    assert len(site.billing.lists) == 1
    assert site.prices.of("three").error == "400 no"


async def test_a_new_leader_tells_it_anew(site: Site) -> None:
    site.prices.tell(site.models["one"])
    await site.settled()
    site.prices.begin()
    site.prices.tell(site.models["one"])
    await site.settled()
    assert len(site.billing.lists) == 2


async def test_the_longer_a_list_takes_the_later_the_next_one_follows(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, paused = asyncio.sleep, list[float]()

    async def sleep(seconds: float) -> None:
        paused.append(seconds)
        await real(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    site.billing.open.clear()
    site.prices.tell(site.models["one"])
    while not site.billing.lists:
        await real(0)
    site.models["four"] = pricing("four")
    site.prices.tell(site.models["four"])
    await real(0.02)
    site.billing.open.set()
    await site.settled()
    assert len(site.billing.lists) == 2
    [pause] = [one for one in paused if one]
    assert SHARE * 0.02 <= pause <= LONGEST_PAUSE
