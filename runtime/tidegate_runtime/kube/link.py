"""The router's link to a cluster: three watches, one picture, one gate.

The gate hears nothing before all three lists are there: half a cluster looks like one whose models
were deleted, and until there is a whole one the router goes on with what it had (from disk, after
a restart). From then on it hears of each change at once; what follows within GAP is told together.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from tidegate_runtime.contract.links import WorldLine
from tidegate_runtime.gate import Gate
from tidegate_runtime.kube import world
from tidegate_runtime.kube.api import Api
from tidegate_runtime.kube.watch import Sink, Watch

log = structlog.get_logger()

GAP: Final = 0.005


class Cluster:
    """Tells a gate of a cluster. `keep` is given what makes the world's line, on every change."""

    def __init__(
        self,
        gate: Gate,
        guard_key: bytes,
        kubeconfig: str,
        keep: Callable[[Callable[[], WorldLine]], None],
    ) -> None:
        self._gate = gate
        self._keep = keep
        self._picture = known = world.Picture(guard_key)
        self._news = asyncio.Event()
        self._version = 0
        told = self._news.set
        self._watches = [
            Watch(Api(kubeconfig), source, sink)
            for source, sink in (
                (world.NAMESPACES, Sink(known.replace_namespaces, known.put_namespace, known.drop_namespace, told)),
                (world.MODELS, Sink(known.replace_models, known.put_model, known.drop_model, told)),
                (world.PODS, Sink(known.replace_pods, known.put_pod, known.drop_pod, told)),
            )
        ]  # fmt: skip

    async def run(self) -> None:
        """Follow the cluster for ever."""
        async with asyncio.TaskGroup() as group:
            for watch in self._watches:
                group.create_task(watch.run())
            group.create_task(self._tell())

    async def _tell(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            if all(watch.listed for watch in self._watches) and self._apply():
                await asyncio.sleep(GAP)

    def _apply(self) -> bool:
        """Tell the gate what is new to it; whether anything was."""
        change = self._picture.take()
        for problem in self._picture.problems:
            log.warning("object_not_understood", problem=problem)
        self._picture.problems.clear()
        if not self._version:
            self._version = 1
            self._gate.apply(self._line())
            log.info("cluster_listed", models=len(change.views))
        elif change.views or change.replicas:
            self._version += 1
            self._gate.change(change.views, change.replicas)
        else:
            return False
        self._keep(self._line)
        return True

    def _line(self) -> WorldLine:
        return self._picture.world(self._version)
