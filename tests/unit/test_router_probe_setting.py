"""TIDEGATE_PROBE: whether a router asks a starting replica before it believes in it."""

from collections.abc import Mapping

import pytest

from tidegate_billing.settings import SettingError
from tidegate_runtime.contract.links import ModelView, Replica
from tidegate_runtime.gate import Gate
from tidegate_runtime.probe import believe
from tidegate_runtime.settings import parse


class _Meter:
    refusal = ""


class _Tenants:
    priced = False
    prices: Mapping[str, int] = {}


@pytest.mark.parametrize(
    ("flags", "environ", "probes"),
    [
        ([], {}, True),
        ([], {"TIDEGATE_PROBE": "true"}, True),
        ([], {"TIDEGATE_PROBE": "false"}, False),
        (["--probe", "true"], {"TIDEGATE_PROBE": "false"}, True),
        (["--probe", "false"], {}, False),
    ],
)
def test_a_flag_wins_over_the_environment(
    flags: list[str], environ: dict[str, str], probes: bool
) -> None:
    assert parse(["--static", "models.yaml", *flags], environ).probe is probes


@pytest.mark.parametrize("value", ["no", "False", "0"])
def test_what_is_neither_stops_the_process_by_name(value: str) -> None:
    with pytest.raises(SettingError, match=r"TIDEGATE_PROBE='.*' is out of range; .*true | false"):
        parse(["--static", "models.yaml"], {"TIDEGATE_PROBE": value})


async def test_an_address_is_believed_and_told() -> None:
    gate = Gate("r", _Meter(), _Tenants())  # type: ignore[arg-type]
    gate.probe_started = believe
    view = ModelView(deployment="team/m", owner="team", name="m")
    starting = Replica(
        id="p.0", deployment="team/m", url="http://198.18.0.1:8000", guard="g", state="starting"
    )
    gate.change({"team/m": view}, {"team/m": [starting]})
    assert gate.models["team/m"].replicas["p.0"].usable
    assert gate.news.is_set()
    [told] = gate.demand().replicas
    assert told.answered_at > 0
    assert not told.answer_error


async def test_one_that_leaves_is_not_believed() -> None:
    gate = Gate("r", _Meter(), _Tenants())  # type: ignore[arg-type]
    gate.probe_started = believe
    view = ModelView(deployment="team/m", owner="team", name="m")
    leaving = Replica(
        id="p.0",
        deployment="team/m",
        url="http://198.18.0.1:8000",
        guard="g",
        state="draining",
        mark="7",
    )
    gate.change({"team/m": view}, {"team/m": [leaving]})
    [told] = gate.demand().replicas
    assert told.answered_at == 0
    assert told.excluded
    assert told.mark == "7", "the operator knows which drain it excludes for"
