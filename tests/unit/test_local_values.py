"""The pure parts of local mode, as tables."""

import asyncio

import pytest

from tidegate_billing.links import EngineCounters
from tidegate_operator.local import counters, environment, parts
from tidegate_operator.local.engines import Seen, Sim, Start
from tidegate_operator.local.replica import ColdStart, Running
from tidegate_operator.local.retry import STEADY_SECONDS, Retry
from tidegate_runtime.engines.sim import options as sim_options

METRICS = """# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="a{b}"} 12.0
vllm:prompt_tokens_total{engine="1",model_name="a"} 3.0
vllm:generation_tokens_total{engine="0",model_name="a"} 1e+02
vllm:generation_tokens_created{engine="0"} 1.7e9
vllm:num_requests_running{engine="0",model_name="a"} 2.0
vllm:num_requests_waiting{engine="0",model_name="a"} 1.0
"""
BASE = EngineCounters(
    model="m", deployment="d/m", epoch="m-1", prompt=0, generated=0, state="lost", verified=False
)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (METRICS, counters.Tokens(15, 100, 3)),
        ("vllm:prompt_tokens_total 4\nvllm:generation_tokens_total 5\n", counters.Tokens(4, 5, 0)),
        ("", None),
        ("vllm:prompt_tokens_total 4\n", None),
        ("process_start_time_seconds 1\n", None),
    ],
)
def test_counters_are_summed_over_labels(text: str, wanted: counters.Tokens | None) -> None:
    assert counters.parse(text) == wanted


def test_the_last_line_of_an_attempt_counts_and_a_cut_one_does_not() -> None:
    content = (
        b'{"attempt_id":"a","prompt_tokens":3,"generated_tokens":1,"sent_tokens":1,"outcome":"running"}\n'
        b'{"attempt_id":"b","prompt_tokens":2,"generated_tokens":7,"sent_tokens":7,"outcome":"completed"}\n'
        b'{"attempt_id":"a","prompt_tokens":3,"generated_tokens":4,"sent_tokens":2,"outcome":"aborted"}\n'
        b'{"attempt_id":"a","prompt_to'
    )
    told = counters.from_truth(BASE, counters.truth(content))
    assert (told.prompt, told.generated, told.verified) == (5, 11, True)
    assert told.attempts == {"a": 4, "b": 7}


@pytest.mark.parametrize(
    ("deaths", "seconds"), [(0, 0), (1, 0), (2, 0.2), (3, 0.4), (4, 0.8), (6, 3.2), (7, 5), (99, 5)]
)
def test_a_dying_part_is_given_growing_pauses(deaths: int, seconds: float) -> None:
    assert parts.pause(deaths) == pytest.approx(seconds)


def test_failed_starts_back_off_and_an_answer_forgives() -> None:
    retry = Retry()
    pauses = []
    for _ in range(8):
        retry = retry.start_failed(100.0)
        pauses.append(retry.at - 100.0)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]
    assert retry.answered() == Retry()


def test_a_crash_is_replaced_at_once_and_a_crash_loop_is_not() -> None:
    first = Retry().crashed(STEADY_SECONDS, 100.0)
    assert first.at == 100.0
    second = first.answered().crashed(1.0, 110.0)
    assert second.at == 111.0
    third = second.answered().crashed(1.0, 120.0)
    assert third.at == 122.0
    assert third.answered().crashed(STEADY_SECONDS, 130.0).at == 130.0
    assert third.answered().ended_well().crashed(1.0, 140.0).at == 140.0
    assert Retry().start_failed(100.0).ended_well() == Retry().start_failed(100.0)


@pytest.mark.parametrize(
    ("times", "milliseconds"),
    [
        ((10.0, 10.002, 15.0, 15.03), 32.0),
        ((10.0, 9.9, 15.0, 14.9), 0.0),  # clocks of two processes may disagree a little
        ((10.0, 10.5, 15.0, 15.0), 500.0),
    ],
)
def test_own_share_leaves_the_engines_own_start_out(
    times: tuple[float, float, float, float], milliseconds: float
) -> None:
    assert ColdStart("s", "d/m", *times).own_share_ms == pytest.approx(milliseconds)


def test_children_inherit_nothing_of_ours() -> None:
    outer = {
        "PATH": "/bin",
        "TIDEGATE_ADMIN_TOKEN": "x",
        "TIDEGATE_NONSENSE": "y",
        "_TIDEGATE_PARENT": "z",
        "DB_PASSWORD": "p",
        "HF_HOME": "/h",
    }
    assert environment.for_part(outer, {"TIDEGATE_DATA": "d"}) == {
        "PATH": "/bin",
        "DB_PASSWORD": "p",
        "HF_HOME": "/h",
        "TIDEGATE_DATA": "d",
    }
    assert environment.for_engine(outer, {"A": "1"}) == {"PATH": "/bin", "HF_HOME": "/h", "A": "1"}


@pytest.mark.parametrize(
    ("line", "seen"),
    [
        ('{"event":"phase","phase":"loading"}', Seen("loading")),
        ('{"event":"ready","at":12.5}', Seen("", 12.5)),
        ('{"event":"other"}', None),
        ("Traceback (most recent call last):", None),
        ("{broken", None),
    ],
)
def test_the_simulator_tells_how_far_it_is(line: str, seen: Seen | None) -> None:
    assert Sim("m", [], {}).seen(line, 99.0) == seen


def test_the_simulators_command_carries_its_guard_in_the_environment_only(tmp_path) -> None:  # type: ignore[no-untyped-def]
    start = Start("m-1-ab", 4000, "secret-guard", tmp_path / "truth")
    command = Sim("m", ["--ttft-ms", "5"], {"A": "1"}).command(start)
    assert command.args[-2:] == ["--ttft-ms", "5"]
    assert "secret-guard" not in command.args
    assert command.env["ENGINE_GUARD_SECRET"] == "secret-guard"
    assert command.env["A"] == "1"


def test_the_simulator_is_told_its_aliases(tmp_path) -> None:  # type: ignore[no-untyped-def]
    command = Sim("m", [], {}, ["a", "b"]).command(Start("m-1-ab", 4000, "g", tmp_path))
    words = list(command.args)
    given = words[words.index("-Im") + 2 :]
    assert sim_options(given).names == ("m", "a", "b")


async def test_last_words_are_words_and_not_the_simulators_protocol(tmp_path) -> None:  # type: ignore[no-untyped-def]
    ended = asyncio.Event()
    run = Running(
        Sim("m", ["--fail", "die-at-start"], {}),
        Start("m-1-ab", 0, "g", tmp_path / "truth"),
        deployment="d/m",
        model="m",
        start_id="1",
        held_at=0.0,
        mark={},
        said=lambda _: None,
        exited=lambda _run, _code: ended.set(),
    )
    assert run.last_words() == ""
    await asyncio.wait_for(ended.wait(), 20)
    assert "out of memory" in run.last_words()
    assert run.last_words().startswith("; ")
    assert "{" not in run.last_words()
    assert "loading" in run.phases
