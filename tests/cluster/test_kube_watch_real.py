"""The watch against a real API server: the stories that the fake one passes, and its absence."""

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import faults
from harness.kubectl import apply, kubectl
from harness.layout import Cluster

import kube_watch_contract as contract


class Place:
    """A namespace of its own."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.kubeconfig = str(cluster.kubeconfig)
        self.namespace = f"watch-{secrets.token_hex(4)}"
        apply(
            cluster,
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}},
        )

    async def put(self, name: str, value: str, label: str = "yes") -> None:
        metadata = {"name": name, "namespace": self.namespace, "labels": {"story": label}}
        one = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        await asyncio.to_thread(apply, self._cluster, {**one, "data": {"value": value}})

    async def delete(self, name: str) -> None:
        words = ("delete", "configmap", name, "-n", self.namespace)
        await asyncio.to_thread(kubectl, self._cluster, *words)

    def end(self) -> None:
        words = ("delete", "namespace", self.namespace, "--wait=false")
        kubectl(self._cluster, *words)


@pytest.fixture
def place(cluster: Cluster) -> Iterator[Place]:
    made = Place(cluster)
    yield made
    made.end()


@pytest.mark.parametrize("story", contract.STORIES, ids=lambda story: story.__name__)
async def test_story(
    story: contract.Story, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await contract.tell(story, place, tmp_path, monkeypatch)


async def test_the_api_server_is_away(own_cluster: Cluster, place: Place, tmp_path: Path) -> None:
    """What was known stays known; and a server that has started anew keeps no history of before."""
    await place.put("a", "1")
    await place.put("b", "1")
    relay = contract.Relay(place.kubeconfig, tmp_path)
    await relay.open()
    async with contract.following(relay.kubeconfig, contract.maps(place)) as (seen, watch):
        await seen.holds(a="1", b="1")
        relay.go()
        await place.delete("a")
        away = faults.api_away(own_cluster)
        await asyncio.to_thread(away.__enter__)
        try:
            await relay.open()
            taken = relay.taken
            await seen.until(lambda: relay.taken > taken + 1, "attempts")
            assert seen.there == {"a": "1", "b": "1"}
            watch._cursor.version = "1"
        finally:
            await asyncio.to_thread(away.__exit__, None, None, None)
        await seen.holds(b="1")
        assert (seen.lists, seen.events) == (2, [])
        await place.put("b", "2")
        await seen.holds(b="2")
    await relay.close()
