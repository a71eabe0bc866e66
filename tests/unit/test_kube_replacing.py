"""How a pod that is replaced is deleted: one that served nobody holds its devices for no drain."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

import pytest

from one_model import T, heard, made, pod
from tidegate_operator.demand import Picture
from tidegate_operator.kube import scale
from tidegate_operator.kube.api import Api
from tidegate_operator.kube.model import Model, Steps
from tidegate_operator.kube.scale import Scaler
from tidegate_runtime.contract.links import ReplicaDemand

SHORT = (("gracePeriodSeconds", "15"),)


class Deletions(Api):
    """Takes every call and keeps what was deleted, with the query."""

    def __init__(self) -> None:
        self.deleted: list[tuple[str, Sequence[tuple[str, str]]]] = []

    async def call(
        self, method: str, path: str, body: object = None, *, content_type: str = "",
        query: Sequence[tuple[str, str]] = (), timeout: float = 0.0,
    ) -> dict[str, Any]:  # fmt: skip
        if method == "DELETE":
            self.deleted.append((path.rpartition("/")[2], tuple(query)))
        return {"metadata": {"resourceVersion": "1"}}


async def deleted_at(model: Model, now: float, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What a scaler deletes of `model` at `now`."""
    api, tasks = Deletions(), set[asyncio.Task[None]]()

    def spawn(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        tasks.add(task)
        return task

    with monkeypatch.context() as patched:
        patched.setattr(scale.time, "time", lambda: now)
        Scaler(api, spawn).carry_out(model, Steps())
    await asyncio.gather(*tasks)
    return api.deleted


async def test_one_whose_first_answer_failed_goes_with_a_short_grace(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = made(1, pod("a", ready=False))
    model.told(ReplicaDemand(id="a.0", answer_error="500"))
    until = model.failing.refused["a.0"].until
    assert await deleted_at(model, until + 1, monkeypatch) == [("pod-a", SHORT)]


async def test_so_does_one_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    hung = pod("a", ready=False)
    running = {"running": {"startedAt": "1970-01-01T00:00:01Z"}}
    hung["status"]["containerStatuses"][0]["state"] = running
    model, picture = made(1, hung, min_replicas=1), Picture()
    heard(picture, T, held=1)
    model.evaluate(picture, T)
    assert model.failing.refused["a.0"].reason == "StartTimeout"
    assert await deleted_at(model, T + 100, monkeypatch) == [("pod-a", SHORT)]


async def test_one_that_has_answered_is_seen_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether its gate says so already, or only the router that forwards to it."""
    for there in (pod("a"), pod("a", ready=False)):
        model = made(1, there)
        model.told(ReplicaDemand(id="a.0", answered_at=T))
        model.failing._replacing = {"a"}
        assert await deleted_at(model, T, monkeypatch) == [("pod-a", ())]


async def test_an_answer_of_an_earlier_life_is_none_of_this_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = made(1, pod("a", ready=False))
    model.told(ReplicaDemand(id="a.0", answered_at=T))
    model.observe({"metadata": {}, "spec": {"replicas": 1}}, [pod("a", ready=False, restarts=1)])
    model.failing._replacing = {"a"}
    assert await deleted_at(model, T, monkeypatch) == [("pod-a", SHORT)]
