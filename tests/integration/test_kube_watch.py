"""The watch over real sockets: the stories of a real API server, and faults a real one rarely has;
then a whole router on it."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import kube_watch_contract as contract
from fake_kube import FakeKube
from kube_watch_contract import following, maps
from owned import owned
from tidegate_runtime.contract import cluster
from tidegate_runtime.contract.links import ModelView, Replica, WorldLine
from tidegate_runtime.kube import world
from tidegate_runtime.kube.api import Api
from tidegate_runtime.kube.link import Cluster
from tidegate_runtime.kube.watch import Source, Watch


@pytest.fixture
async def kube(tmp_path: Path) -> AsyncIterator[FakeKube]:
    async with FakeKube(tmp_path).running() as running:
        running.serve(maps(running))
        yield running


@pytest.mark.parametrize("story", contract.STORIES, ids=lambda story: story.__name__)
async def test_story(
    story: contract.Story, kube: FakeKube, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await contract.tell(story, kube, tmp_path, monkeypatch)


async def test_selectors_are_asked_for_in_lists_and_watches(kube: FakeKube) -> None:
    source = Source(maps(kube), contract.Shape, fields="status.phase!=Failed")
    seen = contract.Seen()
    watch = asyncio.create_task(Watch(Api(kube.kubeconfig), source, seen.sink()).run())
    await seen.until(lambda: kube.watches == 1, "a watch")
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)
    assert [query.get("fieldSelector") for _, query in kube.asked] == 2 * ["status.phase!=Failed"]
    assert not any("labelSelector" in query for _, query in kube.asked)


async def test_cut_in_the_middle_of_a_line(kube: FakeKube) -> None:
    await kube.put("a", "1")
    async with following(kube.kubeconfig, maps(kube)) as (seen, _):
        await seen.until(lambda: kube.watches == 1, "a watch")
        kube.say(b'{"type":"DELETED","object":{"metadata":{"name":"a","resourceVersion":"1')
        kube.cut()
        asked = len(kube.asked)
        await seen.until(lambda: len(kube.asked) > asked, "another watch")
        await kube.put("a", "2")
        await seen.holds(a="2")
        assert (seen.lists, seen.events) == (1, ["put a"])


async def test_a_token_that_was_rotated(kube: FakeKube) -> None:
    async with following(kube.kubeconfig, maps(kube)) as (seen, _):
        await seen.until(lambda: kube.watches == 1, "a watch")
        kube.tokens = {"second"}
        kube.end()
        await kube.put("a", "1")
        asked = len(kube.asked)
        await seen.until(lambda: len(kube.asked) > asked + 1, "refused attempts")
        assert seen.there == {}
        kube.token_file.write_text("second")
        await seen.holds(a="1")
        assert seen.lists == 1


async def test_an_old_version_leads_to_a_list(kube: FakeKube) -> None:
    await kube.put("a", "1")
    await kube.put("b", "1")
    async with following(kube.kubeconfig, maps(kube)) as (seen, _):
        await seen.until(lambda: kube.watches == 1, "a watch")
        kube.tokens.clear()
        kube.cut()
        asked = len(kube.asked)
        await seen.until(lambda: len(kube.asked) > asked, "a refused watch")
        await kube.delete("a")
        await kube.put("b", "2")
        kube.forget_history()
        kube.tokens.add("first")
        await seen.holds(b="2")
        assert (seen.lists, seen.events) == (2, [])


@pytest.mark.parametrize("status", [410, 504])
async def test_refused_for_its_age(kube: FakeKube, status: int) -> None:
    async with following(kube.kubeconfig, maps(kube)) as (seen, _):
        await seen.until(lambda: kube.watches == 1, "a watch")
        kube.refusals = [status]
        kube.end()
        await seen.until(lambda: seen.lists == 2, "another list")


@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
async def test_refused_for_the_moment(kube: FakeKube, status: int) -> None:
    kube.refusals = [status] * 2
    await kube.put("a", "1")
    async with following(kube.kubeconfig, maps(kube)) as (seen, _):
        await seen.holds(a="1")
        await seen.until(lambda: kube.watches == 1, "a watch")
        kube.refusals = [status] * 2
        kube.end()
        await kube.put("a", "2")
        await seen.holds(a="2")
        assert seen.lists == 1


@pytest.mark.parametrize(
    "line",
    [
        b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired"}}\n',
        b'{"type":"ERROR","object":{"kind":"Status","code":500,"message":"etcd is not well"}}\n',
        b"<html>a proxy's own page</html>\n",
    ],
)
async def test_an_error_on_the_stream_leads_to_a_list(kube: FakeKube, line: bytes) -> None:
    async with following(kube.kubeconfig, maps(kube)) as (seen, _):
        await seen.until(lambda: kube.watches == 1, "a watch")
        kube.say(line)
        await seen.until(lambda: seen.lists == 2, "another list")
        await kube.put("a", "1")
        await seen.holds(a="1")


async def test_a_server_that_lists_and_will_not_watch_is_spared(kube: FakeKube) -> None:
    kube.oldest = 10**9
    async with following(kube.kubeconfig, maps(kube)) as (seen, _):
        await asyncio.sleep(2.0)
        assert 2 <= seen.lists <= 8  # pauses grow: 0.05, 0.1, ... 1 s, each between half and whole


async def test_bookmarks_move_on(kube: FakeKube) -> None:
    async with following(kube.kubeconfig, maps(kube)) as (seen, watch):
        await seen.until(lambda: kube.watches == 1, "a watch")
        kube.version = 500
        bookmark = {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "500"}}}
        kube.say(json.dumps(bookmark).encode() + b"\n")
        await seen.until(lambda: watch._cursor.version == "500", "the version")
        kube.forget_history()
        kube.end()
        await kube.put("a", "1")
        await seen.holds(a="1")
        assert seen.lists == 1


# The whole link: three watches, one gate.

KEY = b"platform-guard-key"


class GateSeen:
    """A gate that remembers what it was told."""

    def __init__(self) -> None:
        self.wholes: list[WorldLine] = []
        self.changes: list[tuple[dict[str, ModelView | None], dict[str, list[Replica]]]] = []
        self.at: list[float] = []
        self.models: dict[str, ModelView] = {}
        self.replicas: dict[str, list[Replica]] = {}

    def apply(self, line: WorldLine) -> None:
        self.wholes.append(line)
        self.models = {m.deployment: m for m in line.models}

    def change(
        self, views: dict[str, ModelView | None], replicas: dict[str, list[Replica]]
    ) -> None:
        self.changes.append((views, replicas))
        self.at.append(asyncio.get_running_loop().time())
        self.models |= {k: v for k, v in views.items() if v is not None}
        self.replicas |= replicas


async def until(look: Any, what: str) -> None:
    try:
        async with asyncio.timeout(30):
            while not look():
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


def model(name: str, **status: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "uid": f"u-{name}"}
    return {"metadata": metadata, "spec": {"model": {"uri": "sim://x"}}, "status": status}


def pod(name: str, of: str, ip: str) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "team", "uid": f"u-{name}", **owned(of, f"u-{of}")}
    return {"metadata": metadata, "status": {"phase": "Running", "podIP": ip}}


async def test_the_gate_hears_of_a_whole_cluster_and_then_of_each_change(kube: FakeKube) -> None:
    gate, kept = GateSeen(), []
    kube.store(world.NAMESPACES.path, {"metadata": {"name": "team"}})
    kube.store(world.PODS.path, pod("p", "m", "10.0.0.1"))
    link = Cluster(gate, KEY, kube.kubeconfig, kept.append)  # type: ignore[arg-type]
    task = asyncio.create_task(link.run())
    try:
        await until(lambda: kube.watches == 2, "two lists")
        assert gate.wholes == []  # the CRD is not there yet: half a cluster is none
        kube.store(world.MODELS.path, model("m"))
        await until(lambda: gate.wholes, "the whole")
        (line,) = gate.wholes
        assert [r.url for r in line.replicas] == ["http://10.0.0.1:8000"]
        assert line.replicas[0].guard == cluster.guard(KEY, "u-m")
        await until(lambda: kube.watches == 3, "the third watch")

        kube.store(world.PODS.path, pod("q", "m", "10.0.0.2"))
        await until(lambda: gate.changes, "the pod")
        assert [r.id for r in gate.changes[-1][1]["team/m"]] == ["u-p.0", "u-q.0"]

        kube.store(world.MODELS.path, {**model("bad"), "spec": "poison"})
        for number in range(50):
            kube.store(world.MODELS.path, model(f"m{number}"))
        await until(lambda: "team/m49" in gate.models, "fifty more")
        assert not gate.models["team/bad"].valid
        assert all(gate.models[f"team/m{n}"].valid for n in range(50))
        assert len(gate.changes) < 50  # told together
        assert kept[-1]().version == 1 + len(gate.changes)
        assert len(kept[-1]().models) == 52
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_what_means_nothing_to_a_router_is_not_told(kube: FakeKube) -> None:
    gate = GateSeen()
    for source in (world.NAMESPACES, world.MODELS, world.PODS):
        kube.serve(source.path)
    kube.store(world.NAMESPACES.path, {"metadata": {"name": "team"}})
    kube.store(world.MODELS.path, model("m"))
    link = Cluster(gate, KEY, kube.kubeconfig, lambda make: None)  # type: ignore[arg-type]
    task = asyncio.create_task(link.run())
    try:
        await until(lambda: kube.watches == 3, "the watches")
        for second in range(20):
            kube.store(world.MODELS.path, model("m", lastRequestTime=f"2026-01-01T00:00:{second}Z"))
        kube.store(world.MODELS.path, model("m", coldStart={"startId": "s"}))
        await until(lambda: gate.changes, "the start")
        assert gate.changes == [({"team/m": gate.models["team/m"]}, {})]
        assert gate.models["team/m"].start_id == "s"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
