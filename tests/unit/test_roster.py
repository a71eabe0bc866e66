"""The gate takes what changed, and only that."""

from collections.abc import Mapping
from math import inf
from types import SimpleNamespace
from typing import Any

import msgspec

from tidegate_runtime.contract.links import ModelView, Replica
from tidegate_runtime.gate import Gate
from tidegate_runtime.hold import Ticket


class _Meter:
    refusal = ""


class _Tenants:
    priced = False
    prices: Mapping[str, int] = {}

    @staticmethod
    def in_scope(key: Any, model: str) -> bool:
        del key
        return model == "m"


def _gate() -> Gate:
    return Gate("r", _Meter(), _Tenants())  # type: ignore[arg-type]


def _replica(state: Any = "ready", **more: Any) -> Replica:
    given = {"url": "http://10.0.0.1:8000", "guard": "g", **more}
    return Replica(id="p.0", deployment="team/m", state=state, **given)


async def test_the_gate_rebuilds_names_only_when_a_name_may_be_different() -> None:
    gate = _gate()
    view = ModelView(deployment="team/m", owner="team", name="m")
    gate.change({"team/m": view}, {"team/m": [_replica()]})
    names = gate.names
    gate.change(
        {"team/m": ModelView(deployment="team/m", owner="team", name="m", start_id="s")}, {}
    )
    assert gate.models["team/m"].view.start_id == "s"
    assert gate.names is names
    gate.change({"team/m": ModelView(deployment="team/m", owner="acme", name="m")}, {})
    assert gate.names.lookup("acme", "m") is gate.models["team/m"].view
    gate.change({"team/m": None}, {})
    assert gate.names.lookup("acme", "m") is None
    assert gate.models == {}


async def test_the_gate_avoids_a_lost_replica_until_it_is_back() -> None:
    gate = _gate()
    view = ModelView(deployment="team/m", owner="team", name="m")
    gate.change({"team/m": view}, {"team/m": [_replica(lost=True)]})
    model = gate.models["team/m"]
    assert model.suspected_until == model.replicas["p.0"].suspect_until == inf
    gate.suspect(model, model.replicas["p.0"], "refused")
    assert model.suspected_until == inf
    gate.change({}, {"team/m": [_replica()]})
    assert model.suspected_until == model.replicas["p.0"].suspect_until == 0.0


async def test_a_replica_with_another_address_or_guard() -> None:
    gate, started = _gate(), []
    gate.probe_started = lambda model, replica: started.append(replica)
    view = ModelView(deployment="team/m", owner="team", name="m")
    gate.change({"team/m": view}, {"team/m": [_replica("draining")]})
    known = gate.models["team/m"].replicas["p.0"]
    gate.change({}, {"team/m": [_replica("starting", guard="h")]})
    assert gate.models["team/m"].replicas["p.0"] is known
    assert (known.state, known.guard) == ("starting", b"h")
    assert started == [known, known]  # no longer draining: it may have to be asked
    gate.change({}, {"team/m": [_replica("starting", url="http://10.0.0.2:8000")]})
    assert known.gone
    assert gate.models["team/m"].replicas["p.0"].host == "10.0.0.2"


async def test_news_goes_out_for_what_changed_only() -> None:
    gate = _gate()
    view = ModelView(deployment="team/m", owner="team", name="m")
    gate.change({"team/m": view}, {"team/m": [_replica()]})
    assert gate.news.is_set()
    gate.news.clear()
    gate.change({"team/m": view}, {"team/m": [_replica()]})
    assert not gate.news.is_set()
    gate.change({}, {"team/m": [_replica("draining")]})
    assert gate.news.is_set()


async def test_a_replica_that_has_nothing_to_say_is_left_out() -> None:
    gate = _gate()
    view = ModelView(deployment="team/m", owner="team", name="m")

    def told(state: str) -> list[str]:
        gate.change({"team/m": view}, {"team/m": [_replica(state)]})
        return [one.id for one in gate.demand().replicas]

    assert told("starting") == ["p.0"]
    assert told("ready") == []
    replica = gate.models["team/m"].replicas["p.0"]
    replica.in_flight = 1
    assert told("ready") == ["p.0"], "it serves"
    replica.in_flight = 0
    gate.first_forward(replica)
    assert told("ready") == ["p.0"], "who was served first is told for a while"
    replica.first_forward -= 61
    assert told("ready") == []
    assert told("draining") == ["p.0"], "only this shows that nothing new is sent there"


class _Waiting:
    """A request that waits, as far as the roster is concerned."""

    def __init__(self, model: Any, draw: object = None) -> None:
        self.model, self.draw = model, draw
        self.ticket: Any = None
        self.key = SimpleNamespace(tenant="team", routes=None)
        self.request = SimpleNamespace(model="m", endpoint="/v1/completions", stream=True)
        self.since, self.failed = 0.0, set[str]()
        self.refused: list[int] = []
        self.sent_to: list[str] = []
        model.queue.push(Ticket(self, "team", 0.0, inf, ""), 9, 1.0)

    def refuse(self, refusal: Any) -> None:
        self.refused.append(refusal.status)

    def dispatch(self, replica: Any) -> None:
        self.sent_to.append(self.model.view.deployment)


async def test_who_waits_goes_along_with_the_name() -> None:
    gate = _gate()
    old = ModelView(deployment="team/m", owner="team", name="m")
    gate.change({"team/m": old}, {"team/m": []})
    model = gate.models["team/m"]
    free, paying = _Waiting(model), _Waiting(model, draw=object())
    new = ModelView(deployment="team/new", owner="team", name="m")
    ready = msgspec.structs.replace(_replica(), deployment="team/new")
    given_up = msgspec.structs.replace(old, valid=False)
    gate.change({"team/m": given_up, "team/new": new}, {"team/new": [ready]})
    assert (free.sent_to, free.refused) == (["team/new"], [])
    assert (paying.sent_to, paying.refused) == ([], [404])
    last = _Waiting(gate.models["team/new"])
    gate.change({"team/new": None}, {})
    assert (last.sent_to, last.refused) == ([], [404])


async def test_who_is_tried_again_goes_along_with_the_name() -> None:
    """Its engine died before it answered, and its model was renamed while it ran."""
    gate = _gate()
    old = ModelView(deployment="team/m", owner="team", name="m")
    gate.change({"team/m": old}, {"team/m": []})
    model = gate.models["team/m"]
    ran = [_Waiting(model), _Waiting(model, draw=object()), _Waiting(model)]
    while model.queue.pop() is not None:
        pass  # they run
    new = ModelView(deployment="team/new", owner="team", name="m")
    ready = msgspec.structs.replace(_replica(), deployment="team/new")
    given_up = msgspec.structs.replace(old, valid=False)
    gate.change({"team/m": given_up, "team/new": new}, {"team/new": [ready]})
    free, paying, last = ran
    gate.place(free, again=True)  # type: ignore[arg-type]
    gate.place(paying, again=True)  # type: ignore[arg-type]
    assert (free.sent_to, free.refused) == (["team/new"], [])
    assert (paying.sent_to, paying.refused) == ([], [404])
    gate.change({"team/new": None}, {})
    gate.place(last, again=True)  # type: ignore[arg-type]
    assert (last.sent_to, last.refused) == ([], [404])
