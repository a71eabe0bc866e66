"""A task of `up` that ends by a fault of ours is heard of at once, whoever runs it."""

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tidegate_operator.local.beside import Beside
from tidegate_operator.local.options import Event
from tidegate_operator.local.site import Site


async def broken() -> None:
    await asyncio.sleep(0)
    raise KeyError("no such model")


async def endless() -> None:
    await asyncio.Event().wait()


async def test_a_lost_clock_is_told_with_where_it_was() -> None:
    told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    beside = Beside(told.set_result)
    beside.start(endless())
    beside.start(broken())
    words = await told
    assert "in broken" in words
    assert words.endswith("KeyError: 'no such model'")
    await beside.cancel()


async def test_what_is_cancelled_was_no_fault() -> None:
    beside = Beside(pytest.fail)
    beside.start(endless())
    await asyncio.sleep(0)
    await beside.cancel()


async def test_work_for_a_model_that_fails_is_an_event(tmp_path: Path) -> None:
    said: list[Event] = []
    nothing = cast("Any", SimpleNamespace())
    site = Site(
        data=tmp_path, mark={}, world=nothing, picture=nothing, http=nothing, report=said.append,
        count=nothing, started=nothing, changed=nothing,
    )  # fmt: skip
    await asyncio.wait([site.spawn(broken())])
    await asyncio.sleep(0)
    assert not site.tasks
    assert [one.event for one in said] == ["error"]
    assert "KeyError: 'no such model'" in said[0].message
