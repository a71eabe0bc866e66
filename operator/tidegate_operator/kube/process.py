"""The operator process: its settings, its parts, and its end.

kopf, the watches, the demand links, the election and the queue share one loop. Any of them failing
is a fault of ours and ends the process: Kubernetes starts it again, and another operator leads
meanwhile.
"""

import asyncio
import contextlib
import gc
import os
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import structlog
import uvloop

from tidegate_billing import settings
from tidegate_billing.process import log_to_stderr
from tidegate_billing.settings import SettingError
from tidegate_operator import platform as platforms
from tidegate_operator.kube import handlers, ops
from tidegate_operator.kube.api import Api, ApiError, connect
from tidegate_operator.kube.fleet import Fleet, Site
from tidegate_operator.kube.gitops.follow import GitOps
from tidegate_operator.kube.gitops.ledger import Ledger
from tidegate_operator.kube.lease import Election
from tidegate_operator.kube.routers import Routers
from tidegate_operator.kube.watching import Watching
from tidegate_operator.local.billing import Billing
from tidegate_operator.local.ops import server
from tidegate_operator.platform import InvalidPlatform, Platform
from tidegate_runtime.contract import resource
from tidegate_runtime.contract.cluster import GROUP, PLURAL
from tidegate_runtime.contract.schema import API_VERSION, KIND

log = structlog.get_logger()

RESOURCES = f"/apis/{API_VERSION}/{PLURAL}"
NAMESPACES = "/api/v1/namespaces"
RELIST_SECONDS = 300.0
"""kopf tells no resource's end that came while its watch was broken."""


@dataclass(frozen=True)
class Settings:
    """The operator's settings."""

    name: str
    namespace: str
    host: str
    ops_port: int
    billing_url: str
    base_url: str
    router_service: str
    internal_token: str
    guard_key: bytes
    platform: Platform
    log_level: str


def configure(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from the environment. Raises SettingError, InvalidPlatform."""
    if argv:
        raise SettingError(
            f"{argv[0]!r}: the operator takes no arguments, only TIDEGATE_* settings"
        )
    values = settings.read({}, environ)
    return Settings(
        name=settings.text(values, "NAME", socket.gethostname()),
        namespace=settings.required(values, "NAMESPACE"),
        host=settings.text(values, "HOST", "127.0.0.1"),
        ops_port=settings.port(values, "OPS_PORT", 9092),
        billing_url=settings.required(values, "BILLING_URL").rstrip("/"),
        base_url=settings.text(values, "BASE_URL", ""),
        router_service=settings.text(values, "ROUTER_SERVICE", "tidegate-router-headless"),
        internal_token=settings.required(values, "INTERNAL_TOKEN"),
        guard_key=settings.required(values, "GUARD_KEY").encode(),
        platform=platforms.read(Path(settings.required(values, "PLATFORM"))),
        log_level=settings.choice(
            values, "LOG_LEVEL", "info", ("debug", "info", "warning", "error")
        ),
    )


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run an operator until it is told to stop. One clear line and 1 where it cannot start."""
    try:
        chosen = configure(argv, environ)
        log_to_stderr(chosen.log_level)
        return uvloop.run(_run(chosen))
    except (SettingError, InvalidPlatform, OSError) as error:
        print(f"tidegate operator: {error}", file=sys.stderr)  # noqa: T201 - the one clear line
        return 1


async def _run(chosen: Settings) -> int:
    """Until told to stop: 0. Until a job failed: 1."""
    failed: list[BaseException] = []
    _warm()
    async with contextlib.AsyncExitStack() as stack:
        stop = asyncio.Event()
        handlers.take_signals(stop)
        api = Api(await connect())
        stack.push_async_callback(api.close)
        http = await stack.enter_async_context(httpx.AsyncClient(timeout=5.0, trust_env=False))
        billing = Billing(chosen.billing_url, internal=chosen.internal_token, admin="")
        stack.push_async_callback(billing.close)
        tasks: set[asyncio.Task[None]] = set()
        site = Site(api, billing, chosen.platform, chosen.guard_key, chosen.base_url)
        fleet = Fleet(site, http, tasks)
        ledger = Ledger(http, chosen.billing_url, chosen.internal_token)
        gitops = GitOps(api, ledger, os.environ.get("KUBECONFIG", ""))
        jobs = [*_jobs(chosen, api, fleet, gitops.lead, stop), *gitops.jobs()]
        await stack.enter_async_context(_standing(jobs, stop, failed))
        await stop.wait()
        for task in tasks:
            task.cancel()
    return 1 if failed else 0


def _warm() -> None:
    """Load what judging takes before anybody waits, and keep the collector off what stays.

    A full collection goes through 100,000 objects of libraries and takes 40 ms and more, in which
    no wake is written."""
    model = {"uri": "sim://warm"}
    resource.judge(
        {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "metadata": {"name": "warm"},
            "spec": {"model": model, "engine": {"type": "sim"}},
        }
    )
    gc.collect()
    gc.freeze()


def _jobs(
    chosen: Settings,
    api: Api,
    fleet: Fleet,
    also_leads: Callable[[bool], None],
    stop: asyncio.Event,
) -> list[Coroutine[Any, Any, None]]:
    def lead(leading: bool) -> None:
        fleet.lead(leading)
        also_leads(leading)

    relisted = asyncio.Event()
    routers = Routers(fleet.picture, chosen.internal_token, fleet.heard)
    fleet.routers = routers.slices
    watching = Watching(
        os.environ.get("KUBECONFIG", ""),
        lambda kind, obj, deleted: fleet.state.child(kind, obj, deleted=deleted),
        lambda obj, deleted: fleet.pod(obj, deleted=deleted),
        lambda obj, deleted: routers.slice(obj, deleted=deleted),
        namespace=chosen.namespace,
        service=chosen.router_service,
        more=fleet.capacity.follows(),
    )
    election = Election(api, chosen.namespace, chosen.name, lead)
    port = server(ops.application(fleet, internal=chosen.internal_token))
    bound = socket.create_server((chosen.host, chosen.ops_port), backlog=128)
    bound.setblocking(False)
    return [
        port.serve(sockets=[bound]),
        *(watch.run() for watch in watching.watches),
        _sync(api, fleet, watching, relisted),
        election.run(),
        fleet.queue.run(),
        fleet.tick(),
        fleet.living.tell(lambda: fleet.leading),
        handlers.follow(fleet.state, stop, relisted, partial(_served, api)),
    ]


async def _served(api: Api) -> bool:
    """Whether discovery knows our resources, which it learns after the definition is there."""
    try:
        groups = (await api.get("/apis"))["groups"]
        if GROUP not in {group["name"] for group in groups}:
            return False
        found = await api.get(f"/apis/{API_VERSION}")
    except ApiError:
        return False
    return PLURAL in {one["name"] for one in found["resources"]}


async def _sync(api: Api, fleet: Fleet, watching: Watching, relisted: asyncio.Event) -> None:
    """The whole picture before the first decision, and again whenever kopf had to list anew.

    Namespaces first: without their labels a model would be judged by another tenant's rights."""
    await watching.complete()
    said = ""
    while True:
        relisted.clear()
        try:
            for namespace in (await api.get(NAMESPACES))["items"]:
                fleet.state.namespace(namespace, deleted=False)
            before = dict(fleet.state.resources)
            fleet.state.listed((await api.get(RESOURCES))["items"], before)
        except ApiError as error:
            # 404: the definition is not there yet, and nothing is to be done.
            fleet.synced = fleet.synced or error.status == 404
            if said != error.message:
                said = error.message
                log.warning("resources_not_listed", error=said[:200])
            await asyncio.sleep(1.0)
            continue
        said = ""
        fleet.synced = True
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(relisted.wait(), RELIST_SECONDS)
            await asyncio.sleep(1.0)  # one list for all that it tells at once


@contextlib.asynccontextmanager
async def _standing(
    jobs: list[Coroutine[Any, Any, None]], stop: asyncio.Event, failed: list[BaseException]
) -> AsyncIterator[None]:
    """Jobs that never end; one that does is a fault of ours, and ends the process."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("task_failed", exc_info=fault)
            failed.append(fault)
            stop.set()

    tasks = [asyncio.ensure_future(job) for job in jobs]
    for task in tasks:
        task.add_done_callback(ended)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=5.0)
