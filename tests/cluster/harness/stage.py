"""A platform under load to which things are done: the stage on which scenarios play.

One model serves the load. Each thing that is done is a `moment` with its times, so that transcripts
can prove which streams were under way. Every wait is for a state: a scenario takes as long as it
takes, and callers ask meanwhile.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tidegate_runtime.contract import cluster as contract

from . import installed, judged, kubectl, machine, small_images
from . import platform_parts as parts
from .command import run
from .installed import SYSTEM, Platform
from .judged import Judgement, Moment
from .kubectl import wait_for
from .layout import SIZED_CLASS
from .load import Load, Plan, Truth, loaded, truth

TENANTS = ("motion", "motion-b")
NAME = "moving"
RATE = 8
"""Tokens a second of a stream: 90 to 130 of them take 11 to 16 s."""


def resource(space: str, **spec: Any) -> dict[str, Any]:
    """The model that serves the load. `spec` is merged in."""
    made = installed.model(
        NAME, space, maximum=3, idle=10,
        args=arguments(),
        access={"visibility": "Private", "tenants": list(TENANTS)},
        drain={"timeoutSeconds": 120},
    )  # fmt: skip
    made["spec"]["scaling"] |= {
        "targetConcurrency": 16, "maxConcurrency": 40, "scaleDownDelaySeconds": 2,
        "stableWindowSeconds": 6,
    }  # fmt: skip
    for key, value in spec.items():
        made["spec"][key] = {**made["spec"].get(key, {}), **value}
    return made


def arguments(*more: str, ttft_ms: int = 5) -> list[str]:
    """The engine's. Another `ttft_ms` makes another version of it."""
    return [
        "--start-seconds", "0.1", "--ttft-ms", str(ttft_ms), "--tokens-per-second", str(RATE), *more,
    ]  # fmt: skip


class Stage:
    """The platform, the load, the truth, and what was done so far."""

    def __init__(self, tidegate: Platform, space: str, load: Load, told: Truth) -> None:
        self.tidegate, self.cluster, self.space = tidegate, tidegate.cluster, space
        self.load, self.truth = load, told
        self.mute: set[str] = set()  # uids of pods whose engines tell no truth
        self.begun = time.time()
        self.moments: list[Moment] = []
        self.log: list[str] = []

    @contextmanager
    def moment(self, name: str, *, kills: bool = False, first: bool = False) -> Iterator[None]:
        """Something that is done now; over when the block ends. See `Moment`."""
        begun = time.time()
        self.say(f"{name} ...")
        yield
        self.moments.append(Moment(name, begun, time.time(), kills, first))
        self.say(f"{name}: {time.time() - begun:.1f} s, {self.load.state()}")

    def say(self, what: str) -> None:
        """A line of the run's own log."""
        self.log.append(f"{time.time() - self.begun:7.1f} {what}")
        sys.stderr.write(f"motion: {self.log[-1]}\n")

    def more(self, requests: int) -> None:
        """Go on until so many more requests have come to their end."""
        self.load.asked(self.load.state()["asked"] + requests)

    def pause(self, seconds: float) -> None:
        """Go on for so long: for what is defined by its duration."""
        until = time.monotonic() + seconds
        wait_for(lambda: time.monotonic() > until, f"{seconds:.0f} s", seconds + 5)

    def held(self, name: str, routers: Iterable[dict[str, Any]]) -> float:
        """Requests that wait for a model at these routers; they are asked themselves."""
        return self._gauge("tidegate_held", name, routers)

    def in_flight(self, name: str, routers: Iterable[dict[str, Any]]) -> float:
        """Requests of a model that are being served through these routers."""
        return self._gauge("tidegate_in_flight", name, routers)

    def _gauge(self, gauge: str, name: str, routers: Iterable[dict[str, Any]]) -> float:
        label = f'{{deployment="{self.space}/{name}",model="{name}"}}'
        return sum(max(0.0, parts.metric(pod, f"{gauge}{label}")) for pod in routers)

    # The model

    def mdep(self) -> dict[str, Any]:
        """The resource."""
        return self.tidegate.mdep(NAME, self.space)

    def pods(self) -> list[dict[str, Any]]:
        """The model's pods, but those that were evicted and are kept as a record."""
        found = self.tidegate.pods(NAME, self.space)
        return [pod for pod in found if not contract.ended(pod)]

    def engines(self) -> list[dict[str, Any]]:
        """Its pods that are not leaving."""
        return [pod for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]]

    def change(self, **spec: Any) -> None:
        """Merge fields into the resource's spec."""
        body = json.dumps({"spec": spec})
        self.tidegate.kubectl(
            "-n", self.space, "patch", "mdep", NAME, "--type", "merge", "-p", body
        )

    def replicas(self, count: int, seconds: float = 120) -> None:
        """Wait until so many replicas, and no more pods than those, are ready."""

        def look() -> bool:
            pods = self.pods()
            ready = [pod for pod in pods if contract.answered(pod)]
            return len(pods) == len(ready) == count

        wait_for(look, f"{count} replicas", seconds)

    def template(self) -> int:
        """The number of the Deployment's template, as Kubernetes counts them."""
        found = kubectl.get(self.cluster, "deployment", f"mdep-{NAME}", self.space) or {}
        return int(found["metadata"]["annotations"]["deployment.kubernetes.io/revision"])

    def rolled(self, before: int, seconds: float = 240) -> None:
        """Wait until the version after `before` has replaced it, the old pods' ends included."""

        def look() -> bool:
            found = kubectl.get(self.cluster, "deployment", f"mdep-{NAME}", self.space) or {}
            wanted, told = found["spec"]["replicas"], found["status"]
            pods = self.pods()
            return (
                self.template() > before
                and told.get("updatedReplicas", 0) == wanted == told.get("availableReplicas", 0)
                and len(pods) == wanted
            )

        wait_for(look, "the rollout's end", seconds)

    # The parts

    def routers(self, count: int, seconds: float = 180) -> None:
        """Wait until so many routers are ready."""
        parts.ready(self.cluster, "router", count, seconds)

    def operators(self) -> None:
        """Wait until one leads."""
        parts.leads(self.cluster)

    def small_volume(self, claim: str, size: str) -> None:
        """A claim of that name on a volume that really has no more room than that."""
        made = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": SYSTEM},
            "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": SIZED_CLASS,
                "resources": {"requests": {"storage": size}},
            },
        }  # fmt: skip
        kubectl.apply(self.cluster, made)

    def squeezed(self, claim: str, spare: int) -> Path:
        """The volume of a claim that nobody uses now, from here on with only so many bytes left."""
        found = kubectl.get(self.cluster, "pvc", claim, SYSTEM) or {}
        assert self.cluster.folder is not None
        volume = self.cluster.folder / "volumes" / f"pvc-{found['metadata']['uid']}"
        kept = volume.with_name(f"{volume.name}.kept")
        run("cp", "-a", volume, kept)
        used = int(run("du", "-sB1", kept).split()[0])
        run("mount", "-t", "tmpfs", "-o", f"size={used + spare}", "tmpfs", volume)
        run("cp", "-a", f"{kept}/.", volume)
        volume.chmod(0o777)
        return volume

    def unacknowledged(self) -> float:
        """Records that billing has not acknowledged, in all routers' journals."""
        pods = parts.parts(self.cluster, "router")
        return sum(max(0.0, parts.metric(pod, "tidegate_journal_unacked")) for pod in pods)

    def caught_up(self, seconds: float = 120) -> None:
        """Wait until billing has all but what is under way: two records for each caller."""
        limit = 2 * self.load.state()["callers"]
        wait_for(lambda: self.unacknowledged() <= limit, "billing caught up", seconds)

    def reload(self) -> None:
        """Give nodes the images that a kubelet short of disk has removed."""
        for node in self.cluster.nodes:
            for note in node.root.glob("loaded-tidegate-*"):
                note.unlink()
            for archive in (small_images.pause(), small_images.busybox()):
                machine.load_image(archive, node)
        installed.load_images(self.cluster)

    # The end

    def settled(self, seconds: float = 120) -> None:
        """Wait until every router's journal has been acknowledged."""

        def look() -> bool:
            pods = parts.parts(self.cluster, "router")
            return all(parts.metric(p, "tidegate_journal_unacked") == 0 for p in pods)

        wait_for(look, "all journals acknowledged", seconds)

    def retried(self) -> int:
        """Requests of this run that more than one engine was asked, by the ledger."""
        self.settled()
        asked = Counter(row["request_id"] for row in self.tidegate.ledger(self.begun))
        return sum(attempts > 1 for attempts in asked.values())

    def unclosed(self) -> list[dict[str, Any]]:
        """Engines of this run whose tokens the ledger does not explain; where no engine was killed,
        also those whose counters nobody read at their end."""
        ours = {row["replica"] for row in self.tidegate.ledger(self.begun)}
        rows = self.tidegate.api("/api/v1/conservation")["data"]
        killed = any(moment.kills for moment in self.moments)
        return [
            row
            for row in rows
            if row["epoch"] in ours and (row["unexplained"] or (row["unverified"] and not killed))
        ]

    def judge(self) -> Judgement:
        """What it came to, after the last answer: callers, ledger and engines compared."""
        self.load.ended()
        self.settled()
        open_rows: list[str] = []
        try:
            wait_for(lambda: not self.unclosed(), "conservation closes", 60)
        except TimeoutError:
            open_rows = [f"conservation: {row}" for row in self.unclosed()]
        self.truth.read()
        made = judged.judge(
            self.load.transcript(),
            self.tidegate.ledger(self.begun),
            dict(self.truth.told),
            self.moments,
            self.load.plan.long_seconds,
            self.mute,
        )
        made.wrong += open_rows
        return made


@contextmanager
def staged(tidegate: Platform, image: str, plan: Plan, **spec: Any) -> Iterator[Stage]:
    """A namespace with the model at zero, a load that asks nothing yet; all gone at the end."""
    cluster, space = tidegate.cluster, TENANTS[0]
    installed.namespace(cluster, space)
    with ExitStack() as stack:
        told = stack.enter_context(truth(cluster))
        stack.callback(
            kubectl.kubectl, cluster, "-n", space, "delete", "mdep", NAME, "--ignore-not-found"
        )
        kubectl.apply(cluster, resource(space, **spec))
        tidegate.phase(NAME, space, "Idle")
        load = stack.enter_context(loaded(tidegate, image, plan))
        yield Stage(tidegate, space, load, told)
