"""When an engine counts as hung: by silence and counters (router), by all routers' word (operator)."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_operator.hung import hangs
from tidegate_runtime.contract.links import DemandLine, ReplicaDemand
from tidegate_runtime.stall import LONGEST_STEP, Mark, Silence, Stalls, parse

STALL = 8.0
STILL = (3.0, 40.0, 0.5)


def after(seconds: float, silence: Silence | None = None) -> Silence:
    made = silence or Silence()
    for _ in range(int(seconds)):
        made = made.wait(1.0)
    return made


def test_it_is_asked_after_a_quarter_and_then_each_eighth() -> None:
    silence = after(1)
    assert not silence.due(STALL)
    silence = after(1, silence)
    assert silence.due(STALL)
    silence, wrong = silence.read(STILL, STALL)
    assert not wrong
    assert not silence.due(STALL)
    assert after(1, silence).due(STALL)


@pytest.mark.parametrize(
    ("first", "last", "waited", "wrong"),
    [
        (STILL, STILL, 8, "its counters stand still"),
        (STILL, STILL, 7, ""),
        (STILL, (4.0, 40.0, 0.5), 20, ""),
        (STILL, (3.0, 41.0, 0.5), 20, ""),
        (STILL, (3.0, 40.0, 0.6), 20, ""),
        (STILL, (), 20, ""),
        ((), (), 20, ""),
        (None, None, 7, ""),
        (None, None, 8, "it does not answer /metrics either"),
        (STILL, None, 8, "it does not answer /metrics either"),
        (None, STILL, 8, ""),
    ],
)
def test_the_second_reading_decides(
    first: Mark | None, last: Mark | None, waited: int, wrong: str
) -> None:
    silence, early = after(2).read(first, STALL)
    assert not early
    left = waited - int(silence.waited)
    _, said = after(left, silence).read(last, STALL)
    assert said == wrong


def test_what_was_waited_before_progress_does_not_count() -> None:
    silence, _ = after(7).read(STILL, STALL)
    silence, _ = silence.read((9.0, 40.0, 0.5), STALL)
    assert silence.waited == 0.0
    _, wrong = after(7, silence).read((9.0, 40.0, 0.5), STALL)
    assert not wrong
    _, wrong = after(8, silence).read((9.0, 40.0, 0.5), STALL)
    assert wrong


@given(st.floats(0, 1e6))
def test_a_process_that_stood_still_itself_has_not_listened(seconds: float) -> None:
    assert Silence().wait(seconds).waited <= LONGEST_STEP


@given(st.lists(st.one_of(st.none(), st.just(()), st.just(STILL)), max_size=40))
def test_nobody_hangs_before_the_time_is_over(readings: list[Mark | None]) -> None:
    silence = Silence()
    for reading in readings:
        silence = silence.wait(0.1)
        silence, wrong = silence.read(reading, STALL)
        assert not wrong


def test_progress_is_read_from_vllms_metrics() -> None:
    text = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:generation_tokens_total{engine="0",model_name="m"} 10.0
vllm:generation_tokens_total{engine="1",model_name="m"} 11.0
vllm:iteration_tokens_total_bucket{engine="0",le="1.0",model_name="m"} 7.0
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 5.0
"""
    assert parse(text) == (5.0, 21.0, 0.25)
    assert parse("vllm:num_requests_running 3\n") == ()
    assert parse("vllm:generation_tokens_total 4\n") == (4.0,)
    assert parse("vllm:generation_tokens_total\n") == (0.0,)


def line(router: str, in_flight: int, hung: str = "") -> DemandLine:
    said = ReplicaDemand(id="r", in_flight=in_flight, hung=hung)
    return DemandLine(router=router, at=1.0, replicas=[ReplicaDemand(id="x", hung="no"), said])


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        ({}, ""),
        ({"a": line("a", 0)}, ""),
        ({"a": line("a", 0, "still")}, "still"),
        ({"a": line("a", 2, "still")}, "still"),
        ({"a": line("a", 0, "still"), "b": line("b", 1)}, ""),
        ({"a": line("a", 0, "still"), "b": line("b", 0)}, "still"),
        ({"a": line("a", 0, "still"), "b": line("b", 1, "deaf")}, "still"),
        ({"a": line("a", 0, "still"), "b": None}, "still"),
        ({"a": line("a", 0, "still"), "b": DemandLine(router="b", at=1.0)}, "still"),
    ],
)
def test_a_replica_goes_when_no_router_has_reason_to_keep_it(
    lines: dict[str, DemandLine | None], why: str
) -> None:
    assert hangs("r", lines) == why


@pytest.mark.parametrize(
    ("seconds", "given_up"),
    [
        ([1.0] * 15, False),  # silent for less than twice its stall and 5 s
        ([1.0] * 22, True),
        ([1.0] * 5 + [300.0] + [1.0] * 15, False),  # this process stood still, and did not listen
        ([1.0] * 5 + [300.0] + [1.0] * 23, True),
    ],
)
def test_a_stream_is_given_up_only_for_silence_that_was_listened_to(
    seconds: list[float], given_up: bool
) -> None:
    said: list[str] = []
    view = SimpleNamespace(stall_seconds=STALL)
    replica = Mock(
        id="r", heard_at=0.0, silence=Silence(), model=SimpleNamespace(view=view),
        hung="said already",
    )  # fmt: skip
    exchange = SimpleNamespace(
        replica=replica, front=SimpleNamespace(paused=False), heard_at=0.0, fed_at=0.1,
        request=SimpleNamespace(stream=True), model=replica.model, give_up=said.append,
    )  # fmt: skip
    gate: Any = SimpleNamespace(loop=SimpleNamespace(time=lambda: 0.0), live=[exchange])
    stalls, now = Stalls(gate), 0.0
    for step in seconds:
        now += step
        live: Any = [exchange]
        stalls.sweep(live, now)
    assert bool(said) is given_up
