"""The whole life of `tidegate up`, from the lock to the last process gone.

Order matters twice. Starting: the lock, then what a killed `up` left is ended, then the ports,
so that nothing is started that cannot be used. Stopping: routers first (they answer who waits,
finish what runs and ship their journals), then the engines (counted, nobody uses them any more),
then billing, which has to hear both.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from typing import NamedTuple

import httpx
import msgspec
import uvloop

from tidegate_billing.links import EngineCounters
from tidegate_operator import demand
from tidegate_operator.local import (
    composition,
    datadir,
    files,
    following,
    leftovers,
    ops,
    resources,
    signals,
    sockets,
    watch,
)
from tidegate_operator.local.beside import Beside
from tidegate_operator.local.billing import Billing, BillingError
from tidegate_operator.local.composition import Listeners
from tidegate_operator.local.datadir import DataInUseError
from tidegate_operator.local.diary import Diary
from tidegate_operator.local.epochs import Epochs
from tidegate_operator.local.files import Contents
from tidegate_operator.local.fleet import Fleet
from tidegate_operator.local.following import Held
from tidegate_operator.local.making_room import Room
from tidegate_operator.local.options import Event, UpOptions
from tidegate_operator.local.parts import Part
from tidegate_operator.local.plan import Plan
from tidegate_operator.local.replica import Running
from tidegate_operator.local.site import Site
from tidegate_operator.local.sockets import PortInUseError
from tidegate_operator.local.world import World
from tidegate_runtime.contract.links import DemandLine

READY_SECONDS = 60.0
HOPELESS_DEATHS = 3
BILLING_GRACE = 10.0
ENGINE_GRACE = 5.0
AGAIN_SECONDS = 5.0
RUN_FILE = "run.json"

Report = Callable[[Event], None]


class Start(NamedTuple):
    """What `up` begins with: its sockets, what the files say, and what is to run for that."""

    listeners: Listeners
    plans: list[Plan]
    contents: Contents
    held: Held


class PlatformError(Exception):
    """The platform cannot serve; the message is for people."""


def run(options: UpOptions, report: Report) -> int:
    """Runs the platform until it is told to stop. The process's exit code."""
    # Parts and engines inherit it: whatever any of them writes is its user's alone.
    before = os.umask(0o077)
    try:
        return _run(options, report)
    finally:
        os.umask(before)


def _run(options: UpOptions, report: Report) -> int:
    contents = files.first(options.files)
    verdict = following.accept(contents.parsed, {})
    problems = [*contents.problems, *(one for ones in verdict.problems.values() for one in ones)]
    for problem in problems:
        report(watch.told(problem))
    if problems:
        return 1
    found = list(following.resources(verdict.held).values())
    if not found:
        named = ", ".join(map(files.named, options.files))
        report(Event(ts=time.time(), event="warning", warning=f"no ModelDeployment in {named}"))
    try:
        with contextlib.ExitStack() as held:
            fd = datadir.lock(options.data)
            held.callback(os.close, fd)
            leftovers.clean(options.data)
            listeners = composition.bind(options)
            for bound in listeners.all():
                held.callback(bound.close)
            names = [one.deployment for one in found]
            seen = resources.first_seen(options.data, names, time.time())
            plans = resources.plans(found, seen, options.cache, options.vllm_python)
            # Installers that run in this process's name are found by it after a kill -9, too.
            os.environ[leftovers.MARK] = leftovers.mark(options.data)
            held.callback(os.environ.pop, leftovers.MARK, None)
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                start = Start(listeners, plans, contents, verdict.held)
                return runner.run(_live(options, report, start))
    except (DataInUseError, PortInUseError, PlatformError) as error:
        report(_error(str(error)))
    except OSError as error:
        place = str(error.filename or options.data)
        ours = " (setting: TIDEGATE_DATA)" if place.startswith(str(options.data)) else ""
        report(_error(f"{place}: {error.strerror}{ours}"))
    return 1


async def _live(options: UpOptions, report: Report, start: Start) -> int:
    platform = Platform(options, report, start)
    with signals.told(platform.told_to_stop):
        return await platform.live()


def _error(message: str, name: str = "") -> Event:
    return Event(ts=time.time(), event="error", message=message, name=name)


class Platform:
    """Everything that runs, and the order in which it starts and stops."""

    def __init__(self, options: UpOptions, report: Report, start: Start) -> None:
        listeners = start.listeners
        self._options, self._report, self._listeners = options, report, listeners
        for folder in ("logs", "truth"):
            (options.data / folder).mkdir(mode=0o700, exist_ok=True)
        self._epochs = Epochs(options.data, lambda words: report(_error(words)))
        self._secrets = datadir.read_secrets(options.data)
        self._stop, self._kill = asyncio.Event(), asyncio.Event()
        self._hopeless: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._dirty = False
        self._billing = Billing(
            sockets.url(listeners.billing.serve),
            internal=self._secrets.internal,
            admin=self._secrets.admin,
        )
        self._diary = Diary(options.data, self._billing, lambda words: report(_error(words)))
        self._site = Site(
            data=options.data,
            mark={leftovers.MARK: leftovers.mark(options.data)},
            world=World(),
            picture=demand.Picture(),
            http=httpx.AsyncClient(timeout=2.0, trust_env=False),
            report=report,
            count=self._count,
            started=self._engine_started,
            changed=self._changed,
            lives=self._diary.lives,
            room=Room(options.memory, options.minimum_idle),
        )
        self._fleet = Fleet(start.plans, self._site)
        self._follower = watch.Follower(
            options.files,
            start.contents,
            start.held,
            fleet=self._fleet,
            cache=options.cache,
            python=options.vllm_python,
            report=report,
        )
        specs = composition.specs(options, listeners, self._secrets, os.environ)
        self._parts = [
            Part(spec, options.data / "logs", changed=self._part_started, died=self._part_died)
            for spec in specs
        ]
        self._server = ops.server(
            ops.application(self._fleet, internal=self._secrets.internal, admin=self._secrets.admin)
        )
        self._fault = ""
        self._beside = Beside(self._lost)

    def told_to_stop(self) -> None:
        """The first time: stop in order. The second time: kill now."""
        (self._kill if self._stop.is_set() else self._stop).set()

    def _lost(self, fault: str) -> None:
        self._fault = self._fault or fault
        self._stop.set()

    async def live(self) -> int:
        """Starts everything, serves until told to stop, and ends everything."""
        serving = asyncio.create_task(self._server.serve(sockets=[self._listeners.operator]))
        message = ""
        try:
            self._start()
            await self._until_ready()
            await self._stop.wait()
            if message := self._fault:
                self._report(_error(message))
        except PlatformError as error:
            message = str(error)
            self._report(_error(message))
        finally:
            await self._end()
            self._site.world.close()
            self._server.should_exit = True
            await serving
            for name in (RUN_FILE, leftovers.LIST):
                (self._options.data / name).unlink(missing_ok=True)
        self._report(Event(ts=time.time(), event="stopped", message=message))
        return 1 if message else 0

    def _start(self) -> None:
        for part in self._parts:
            part.start()
        for owed in self._epochs.owed():
            self._site.spawn(self._count(owed))
        for part in self._routers():
            name = part.spec.name
            self._site.picture.expect(name, time.time())
            self._beside.start(self._follow(name, part.spec.ops_url))
        self._fleet.begin()
        self._beside.start(self._fleet.tick())
        self._beside.start(self._diary.run())

    async def _follow(self, name: str, url: str) -> None:
        def heard(line: DemandLine) -> None:
            self._fleet.hear(name, line)

        await demand.follow(url, self._secrets.internal, heard)

    async def _until_ready(self) -> None:
        ready = asyncio.create_task(self._ready())
        stop = asyncio.create_task(self._stop.wait())
        waiting: set[asyncio.Future[object]] = {ready, stop, self._hopeless}  # type: ignore[arg-type]
        done, _ = await asyncio.wait(
            waiting, timeout=READY_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        for task in (ready, stop):
            if task not in done:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._hopeless in done:
            raise PlatformError(self._hopeless.result())
        if not done:
            raise PlatformError(f"router or billing not ready within {READY_SECONDS:.0f} s")
        if ready in done:
            ready.result()

    async def _ready(self) -> None:
        await asyncio.gather(*(part.ready(self._site.http) for part in self._parts))
        await self._first_key()
        self._fleet.ready = True
        self._write_run()
        self._beside.start(self._fleet.keep_priced(self._billing))
        self._beside.start(self._follower.run())
        self._report(
            Event(
                ts=time.time(),
                event="ready",
                base_url=self._parts[0].spec.url,
                admin_url=self._parts[-1].spec.url,
                ops_url=sockets.url(self._listeners.operator),
            )
        )

    async def _first_key(self) -> None:
        path = self._options.data / "api-key"
        if path.exists():
            return
        try:
            key = await self._billing.make_key("default", "default")
        except BillingError as error:
            raise PlatformError(f"the first key could not be made: {error}") from error
        datadir.write_private(path, key.encode("ascii") + b"\n")

    def _routers(self) -> list[Part]:
        return self._parts[:-1]

    def _part_started(self) -> None:
        for part in self._parts:
            if part.pid:
                leftovers.record(self._options.data, part.pid)
        self._changed()

    def _part_died(self, part: Part, code: int) -> None:
        name, words = part.spec.name, part.last_words()
        self._report(_error(f"exited with status {code}; starting it again", name))
        self._changed()
        if (
            not self._fleet.ready
            and part.young_deaths >= HOPELESS_DEATHS
            and not self._hopeless.done()
        ):
            self._hopeless.set_result(f"{name} does not start (status {code}): {words}")

    def _engine_started(self, run: Running) -> None:
        leftovers.record(self._options.data, run.child.pid)
        self._epochs.begin(run.base_counters("lost"), run.truth)

    async def _count(self, ended: EngineCounters) -> None:
        self._epochs.close(ended)
        try:
            await self._billing.count([ended])
        except BillingError as error:
            self._report(_error(f"counters of {ended.epoch}: {error}", ended.model))
        else:
            self._epochs.paid(ended.epoch)

    # run.json

    def _changed(self) -> None:
        # After the current callback: an exec and a publication never wait for the disk.
        if self._dirty or not self._fleet_is_ready():
            return
        self._dirty = True
        asyncio.get_running_loop().call_soon(self._write_run)

    def _fleet_is_ready(self) -> bool:
        fleet = getattr(self, "_fleet", None)
        return fleet is not None and fleet.ready

    def _write_run(self) -> None:
        self._dirty = False
        content = {
            "version": 1,
            "base_url": self._parts[0].spec.url,
            "admin_url": self._parts[-1].spec.url,
            "parts": [
                {
                    "name": part.spec.name,
                    "pid": part.pid,
                    "ops_url": part.spec.ops_url,
                    "url": part.spec.url,
                }
                for part in self._parts
            ],
            "engines": self._fleet.engines(),
            "operator": {"pid": os.getpid(), "ops_url": sockets.url(self._listeners.operator)},
        }
        try:
            datadir.write_private(self._options.data / RUN_FILE, msgspec.json.encode(content))
        except OSError as error:
            self._report(_error(f"{RUN_FILE}: {error.strerror}; it is written again"))
            asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._changed)

    # The end

    async def _end(self) -> None:
        self._stop.set()
        self._report(Event(ts=time.time(), event="stopping"))
        orderly = asyncio.create_task(self._orderly())
        kill = asyncio.create_task(self._kill.wait())
        await asyncio.wait({orderly, kill}, return_when=asyncio.FIRST_COMPLETED)
        kill.cancel()
        if orderly.done():
            orderly.result()
        else:
            await self._at_once(orderly)
        self._diary.write()
        self._fleet.ready = False
        await asyncio.gather(self._billing.close(), self._site.http.aclose())

    async def _orderly(self) -> None:
        self._site.closing = True
        await asyncio.gather(*(part.stop(self._options.stop_seconds) for part in self._routers()))
        await self._beside.cancel()
        await self._fleet.close(ENGINE_GRACE)
        self._site.spawn(self._diary.tell())
        await self._site.finish(BILLING_GRACE)
        await self._parts[-1].stop(BILLING_GRACE)

    async def _at_once(self, orderly: asyncio.Task[None]) -> None:
        orderly.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await orderly
        self._fleet.kill()
        await asyncio.gather(*(part.stop(0.0) for part in self._parts))
        await self._beside.cancel()
        await self._site.finish(0.0)
