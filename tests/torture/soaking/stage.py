"""The platform of a soak: what is done to it, and the moments in which that may tell."""

import contextlib
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from soaking import documents
from soaking.callers import Callers
from soaking.documents import REAL
from soaking.judge import FOREVER, Moment
from soaking.plan import TENANTS, Act, Soak

import running

POLL = 0.1
WITNESS = 1.0
"""Seconds between two looks at what routers serve, for whoever has to explain a 404."""
PATIENCE = 300.0
"""Seconds until something that must come has not come: far more than it takes on a busy machine."""


class Stage:
    """Acts on the running platform. `folder` holds the followed files."""

    def __init__(self, up: running.Platform, folder: Path, plan: Soak) -> None:
        self.up, self.folder = up, folder
        self.moments: list[Moment] = []
        self.done: Counter[str] = Counter()
        self.killed: list[str] = []
        self.wrong: list[str] = []
        self.witnessed: list[tuple[float, str, list[str]]] = []
        self._witnessed, self._last = 0.0, dict[str, set[str]]()
        self.routers = [p["name"] for p in up.run["parts"] if p["name"].startswith("router")]
        self.keys = {tenant: _key(up, tenant) for tenant in TENANTS}
        self._http = httpx.Client(timeout=30, trust_env=False)
        self._own = frozenset({REAL}) if plan.real else frozenset[str]()
        self._served = documents.names(plan.base) | self._own
        named = {one.name for specs in plan.base.values() for one in specs} | self._own
        self._deployments = {f"default/{name}" for name in named}
        self._away: dict[str, Moment] = {}
        self._ill: dict[tuple[str, str], Moment] = {}
        self._faulty: dict[tuple[str, int], list[Moment]] = {}
        self._restarting: list[tuple[Moment, int]] = []
        asked = {ask.model for one in plan.rounds for ask in one.asks}
        for name in asked - self._served:
            self._leave(name, 0.0)
            self._away[name].sure = 0.0

    @property
    def bases(self) -> list[str]:
        """Where callers ask: a URL per router."""
        return [self.up.part(name)["url"] for name in self.routers]

    def act(self, act: Act) -> None:
        """Do it now."""
        kind = "edit" if act.writes else act.kind
        did = {
            "edit": self._edit,
            "kill-router": self._kill_part,
            "kill-billing": self._kill_part,
            "kill-engine": self._kill_engine,
            "wake": self._wish,
            "sleep": self._wish,
            "fault": self._fault,
            "clear": self._clear,
        }[kind](act)
        self.done[act.kind if did else f"{act.kind} (nothing there)"] += 1

    def look(self) -> None:
        """See what has come of what was done."""
        self._restarted()
        if time.monotonic() - self._witnessed > WITNESS:
            self._witness()
        away = [name for name, m in self._away.items() if m.sure == FOREVER or m.unsure < FOREVER]
        if not away:
            return
        known = [one for one in map(self._known, self.bases) if one is not None]
        if len(known) < len(self.bases):
            return
        now = time.time()
        for name in away:
            moment, has = self._away[name], [name in one for one in known]
            if moment.unsure < FOREVER and all(has):
                moment.end = now
                del self._away[name]
            elif moment.unsure == FOREVER and not any(has):
                moment.sure = now

    def _witness(self) -> None:
        """Notes what each router serves, where that is something else than before."""
        self._witnessed = time.monotonic()
        for name, base in zip(self.routers, self.bases, strict=True):
            known = self._known(base)
            if known is not None and known != self._last.get(name):
                self._last[name] = known
                self.witnessed.append((time.time(), name, sorted(known)))

    def _known(self, base: str) -> set[str] | None:
        """What a router serves; None where it does not answer."""
        headers = {"authorization": f"Bearer {self.keys[TENANTS[0]]}"}
        with contextlib.suppress(httpx.HTTPError):
            answer = self._http.get(f"{base}/v1/models", headers=headers)
            return {one["id"] for one in answer.raise_for_status().json()["data"]}
        return None

    # Files

    def write(self, writes: Mapping[str, str | None]) -> None:
        """As editors do: a new file is renamed over the old one."""
        for name, text in writes.items():
            path = self.folder / name
            if text is None:
                path.unlink(missing_ok=True)
            else:
                new = path.with_name(f".{name}.new")
                new.write_text(text)
                new.rename(path)

    def _edit(self, act: Act) -> bool:
        now = time.time()
        names = act.names | self._own
        for name in self._served - names:
            self._leave(name, now)
        for kind, ill in (("suspended", act.suspended), ("doomed", act.doomed)):
            self._sicken(kind, ill, now)
        self.write(dict(act.writes))
        now = time.time()
        for name in names - self._served:
            if name in self._away:
                self._away[name].unsure = now
        for (kind, name), moment in list(self._ill.items()):
            if name not in (act.suspended if kind == "suspended" else act.doomed):
                moment.repaired = now
                del self._ill[kind, name]
        self._served = names
        return True

    def _leave(self, name: str, now: float) -> None:
        known = self._away.get(name)
        if known is not None:  # it was on its way back: nobody knows when it was there
            known.unsure = known.sure = FOREVER
            self._away[name] = Moment("absent", name, known.begin)
            self.moments.remove(known)
        else:
            self._away[name] = Moment("absent", name, now)
        self.moments.append(self._away[name])

    def _sicken(self, kind: str, names: frozenset[str], now: float) -> None:
        for name in names:
            if (kind, name) not in self._ill:
                self._ill[kind, name] = Moment(kind, name, now)
                self.moments.append(self._ill[kind, name])

    # Parts and engines

    def _kill_part(self, act: Act) -> bool:
        pid = self.up.part(act.target)["pid"]
        if not pid:
            return False
        moment = Moment("billing" if act.target == "billing" else "router", act.target, time.time())
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            self.moments.append(moment)
            self._restarting.append((moment, pid))
            return True
        return False

    def _restarted(self) -> None:
        for moment, pid in list(self._restarting):
            part = self.up.part(moment.target)
            if part["pid"] in {0, pid}:
                continue
            with contextlib.suppress(httpx.HTTPError):
                if self._http.get(part["ops_url"] + "/readyz").status_code == 200:
                    moment.end = time.time()
                    self._restarting.remove((moment, pid))

    def _engine(self, act: Act) -> dict[str, Any] | None:
        """One of the model's engines that have answered: one that starts would be a failed start."""
        found = [
            one
            for one in self.up.run["engines"]
            if one["model"] == act.target and one["state"] != "starting"
        ]
        return (
            sorted(found, key=lambda one: one["replica"])[act.pick % len(found)] if found else None
        )

    def _kill_engine(self, act: Act) -> bool:
        one = self._engine(act)
        if one is None:
            return False
        moment = Moment("engine", one["replica"], time.time())
        with contextlib.suppress(ProcessLookupError):
            os.kill(one["pid"], signal.SIGKILL)
            self.moments.append(moment)
            self.killed.append(one["replica"])
            return True
        return False

    def _fault(self, act: Act) -> bool:
        one = self._engine(act)
        if one is None:
            return False
        moment = Moment("fault", one["replica"], time.time(), detail=act.detail)
        self.moments.append(moment)  # also where the answer is lost: it may have been heard
        said = self._tell(one, act.detail)
        self._faulty.setdefault((act.target, act.pick), []).append(moment)
        return said

    def _clear(self, act: Act) -> bool:
        moments = self._faulty.pop((act.target, act.pick), [])
        there = {one["replica"]: one for one in self.up.run["engines"]}
        said = False
        for moment in moments:
            if (one := there.get(moment.target)) is not None and self._tell(one, None):
                said = True
        return said

    def _tell(self, engine: dict[str, Any], fail: str | None) -> bool:
        headers = {"authorization": f"Bearer {engine['guard']}"}
        try:
            url = engine["url"] + "/sim/faults"
            return self._http.put(url, json={"fail": fail}, headers=headers).status_code == 200
        except httpx.HTTPError:
            return False

    def _wish(self, act: Act) -> bool:
        return self._wished(act.target, act.kind) == 200

    def _wished(self, model: str, wish: str) -> int:
        url = f"{self.up.run['operator']['ops_url']}/api/v1/models/{model}/{wish}"
        token = (self.up.data / "admin-token").read_text().strip()
        return self._http.post(url, headers={"authorization": f"Bearer {token}"}).status_code

    # Quiet

    def settle(self, restore: Act, callers: Callers) -> None:
        """Everything as in the beginning, at rest and told."""
        self.act(restore)
        self._until(lambda: self._in_force(restore), lambda: f"the files in force: {self._last}")
        self._until(
            lambda: callers.alive() or not callers.running, lambda: f"answers to {callers.running}"
        )
        self._until(lambda: not self._restarting, "killed parts are back")
        self._until(self._asleep, lambda: f"everything asleep: {self._rows()}")
        self.up.settled()
        owed = self.up.data / "epochs"
        self._until(lambda: not list(owed.glob("*.json")), "engines' counters are told")
        if not self._in_force(restore):
            self.wrong.append(f"at rest routers serve {self._last}, not {sorted(restore.names)}")

    def _in_force(self, restore: Act) -> bool:
        """Whether every router and the operator have just what the files say."""
        self._witness()
        wanted = restore.names | self._own
        if (
            any(self._last.get(name) != wanted for name in self.routers)
            or self._away.keys() & wanted
        ):
            return False
        return {str(row["deployment"]) for row in self._rows()} == self._deployments

    def _asleep(self) -> bool:
        if not self.up.run["engines"] and all(
            row["phase"] in {"Idle", "Failed"} for row in self._rows()
        ):
            return True
        for row in self._rows():
            if row["ready"] or row["desired"]:
                self._wished(str(row["deployment"]), "sleep")
        time.sleep(POLL)
        return False

    def _rows(self) -> list[dict[str, Any]]:
        return list(self.up.operator("/api/v1/models")["data"])

    def _until(self, look: Any, what: Any) -> None:
        until = time.monotonic() + PATIENCE
        while not look():
            if time.monotonic() > until:
                words = what if isinstance(what, str) else what()
                raise AssertionError(f"never came: {words}")
            self.look()
            time.sleep(POLL)

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()


def _key(up: running.Platform, tenant: str) -> str:
    token = (up.data / "admin-token").read_text().strip()
    answer = httpx.post(
        f"{up.run['admin_url']}/api/v1/keys",
        json={"tenant": tenant, "project": "soak", "name": "soak"},
        headers={"authorization": f"Bearer {token}"},
        timeout=30,
        trust_env=False,
    )
    answer.raise_for_status()
    return str(json.loads(answer.content)["key"])
