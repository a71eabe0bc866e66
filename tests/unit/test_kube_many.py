"""What an operator with many models leaves out: work and writes that would change nothing."""

import asyncio
from typing import Any

import httpx
import pytest

from owned import owned
from planning import SETTINGS, SIM
from tidegate_billing.links import ModelPricing, PricedModel
from tidegate_operator.kube.fleet import Fleet, Site
from tidegate_operator.kube.model import Model
from tidegate_operator.kube.report import Priced
from tidegate_operator.kube.scale import Scaler
from tidegate_operator.kube.watching import Known
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import ReplicaDemand

Object = dict[str, Any]


class Api:
    """Takes every write; the version it answers with is one more each time."""

    calls = failures = 0

    def __init__(self) -> None:
        self.written: list[tuple[str, Any]] = []
        self.version = 100

    async def apply(self, path: str, obj: Any, **_: Any) -> Object:
        return await self.patch(path, obj)

    async def create(self, path: str, obj: Any) -> Object:
        return await self.patch(path, obj)

    async def patch(self, path: str, change: Any, *_: Any) -> Object:
        self.written.append((path, change))
        self.version += 1
        return {
            "metadata": {
                "namespace": "team", "name": "m", "uid": "m", "resourceVersion": str(self.version),
            },
            "status": change.get("status", {}),
        }  # fmt: skip


class Billing:
    """Answers when it is let."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def price(self, wanted: list[ModelPricing]) -> list[PricedModel]:
        await self.may.wait()
        return [
            PricedModel(deployment=one.deployment, priced=True, price_version=1) for one in wanted
        ]


def resource(name: str, version: int = 1, **more: Any) -> Object:
    metadata = {
        "namespace": "team", "name": name, "uid": name, "resourceVersion": str(version),
        "generation": 1, **more,
    }  # fmt: skip
    return {
        "apiVersion": "tidegate.dev/v1alpha1", "kind": "ModelDeployment", "metadata": metadata,
        "spec": SIM,
    }  # fmt: skip


def pod(uid: str, version: int, *conditions: Object) -> Object:
    made = {
        "namespace": "team", "name": f"pod-{uid}", "uid": uid, "resourceVersion": str(version),
        **owned("m", "m"),
    }  # fmt: skip
    state = {"name": "engine", "restartCount": 0, "state": {"running": {}}}
    return {
        "metadata": made,
        "status": {
            "podIP": "10.0.0.1", "containerStatuses": [state], "conditions": list(conditions),
        },
    }  # fmt: skip


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def billing() -> Billing:
    return Billing()


@pytest.fixture
def fleet(api: Api, billing: Billing) -> Fleet:
    refuses = httpx.MockTransport(lambda _: httpx.Response(503))
    site = Site(api, billing, SETTINGS, b"key", "")  # type: ignore[arg-type]
    made = Fleet(site, httpx.AsyncClient(transport=refuses), set())
    made.synced = True
    return made


def counted(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the names are decided on: one entry each."""
    found: list[int] = []
    settle = fleet.verdicts.settle

    def counting() -> list[str]:
        found.append(1)
        return settle()

    monkeypatch.setattr(fleet.verdicts, "settle", counting)
    return found


async def test_names_are_decided_again_only_where_one_may_mean_something_else(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = counted(fleet, monkeypatch)
    fleet.state.namespace({"metadata": {"name": "team"}}, deleted=False)

    async def after(what: str, more: int) -> None:
        before = len(settled)
        await fleet._reconcile("team/m")
        assert len(settled) - before == more, what

    fleet.state.resource(resource("m"), deleted=False)
    await after("it is new", 1)
    await after("nothing", 0)
    fleet.pod(pod("a", 2), deleted=False)
    await after("a pod", 0)
    fleet.state.resource({**resource("m", 3), "status": {"phase": "Idle"}}, deleted=False)
    await after("its status", 0)
    fleet.state.resource(resource("m", 4, generation=2), deleted=False)
    await after("its spec", 1)
    label = {"name": "team", "labels": {cluster.LABEL_TENANT: "acme"}}
    fleet.state.namespace({"metadata": label}, deleted=False)
    await after("its owner", 1)
    fleet.state.resource(resource("n", 5), deleted=False)
    await after("another one", 1)
    fleet.state.resource(resource("n", 5), deleted=True)
    await after("the other one's end", 1)


async def test_while_many_are_judged_others_go_on_and_nobody_is_told_half(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    settled = counted(fleet, monkeypatch)
    for number in range(20):
        spec = {**SIM, "model": {**SIM["model"], "name": "same"}}
        one = {**resource(f"m{number}"), "spec": spec}
        one["metadata"]["creationTimestamp"] = f"2026-01-01T00:00:{number:02}Z"
        fleet.state.resource(one, deleted=False)
    turns = 0
    reconciled = asyncio.gather(fleet._reconcile("team/m19"), fleet._reconcile("team/m0"))
    while not reconciled.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns >= 20
    assert len(settled) == 1
    assert fleet.models["team/m0"].off is False
    assert fleet.models["team/m19"].off is True, "the name is another's"


async def test_what_billing_had_said_stands_until_it_answers(
    fleet: Fleet, api: Api, billing: Billing
) -> None:
    told = {"conditions": [{"type": "Priced", "status": "True"}]}
    fleet.state.resource({**resource("m"), "status": told}, deleted=False)
    fleet.state.resource(resource("n", 2), deleted=False)
    fleet.leading = True

    async def reported() -> list[str]:
        for name in "mn":
            await fleet._reconcile(f"team/{name}")
        return [path.split("/")[-2] for path, _ in api.written if path.endswith("/status")]

    assert await reported() == ["n"], "of the other one nothing was known"
    billing.may.set()
    await asyncio.wait_for(asyncio.gather(*fleet._tasks), 10)
    yes = PricedModel(deployment="team/m", priced=True, price_version=1)
    assert fleet._prices.of("team/m") == Priced(yes, "")
    assert "m" in await reported()
    fleet.queue._timers.clear()


def gate(status: str, epoch: str) -> Object:
    return {"type": cluster.ANSWERED, "status": status, "message": epoch}


async def test_a_gate_is_written_once_until_the_watch_shows_it(api: Api) -> None:
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        return task

    scaler, model = Scaler(api, spawn), Model("team/m")  # type: ignore[arg-type]

    async def write(shown: Object) -> int:
        model.observe(None, [shown])
        scaler.gate(model, "a", answered=True)
        await asyncio.gather(*tasks)
        return len(api.written)

    assert await write(pod("a", 1)) == 1
    assert await write(pod("a", 1)) == 1, "not seen yet"
    assert await write(pod("a", 100)) == 1, "older than the write"
    assert await write(pod("a", 102)) == 2, "somebody has taken it away again"


def test_of_a_pod_that_has_answered_only_what_is_new_counts() -> None:
    model = Model("team/m")
    model.observe(None, [pod("a", 1, gate("True", "a.0"))])
    model.cold = model.cold._replace(id="start")
    assert model.told(ReplicaDemand(id="a.0", answered_at=1.0)) == ""
    assert not model.cold.forwarded_at
    assert model.told(ReplicaDemand(id="a.0", answered_at=1.0, first_forward=2.0)) == ""
    assert model.cold.forwarded_at == 2.0
    assert model.last_cold is not None
    model.told(ReplicaDemand(id="a.0", answer_error="broken"))
    assert model.failing.refused == {}, "one that serves others is not refused"
    assert model.ready() == ["a"]


def test_who_wrote_which_field_is_kept_only_where_it_is_read() -> None:
    told: list[Object] = []
    known = Known(lambda obj, deleted: told.append(dict(obj)))

    def shown(name: str, spec: Object) -> Object:
        fields = [{"manager": "x", "fieldsV1": {"f:spec": spec}}]
        known.put({"metadata": {"name": name, "managedFields": fields}})
        metadata: Object = told[-1]["metadata"]
        return metadata

    assert "managedFields" in shown("deployment", {"f:replicas": {}})
    assert "managedFields" not in shown("service", {"f:ports": {}})
