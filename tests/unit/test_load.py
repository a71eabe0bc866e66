"""The load generator's plan, numbers and report: tables of pure functions."""

import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tidegate_operator.cli.load import chart, figures, plan, report
from tidegate_operator.cli.load.figures import Sample
from tidegate_operator.cli.load.plan import Load

LOAD = Load(model="m", requests=400, prompts=((5, 3.0), (50, 1.0)), streams=0.5)


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [
        ([7], 50, 7),
        ([7], 99, 7),
        ([1, 2, 3, 4], 50, 2),
        ([1, 2, 3, 4], 75, 3),
        ([1, 2, 3, 4], 76, 4),
        ([1, 2, 3], 50, 2),
        (list(range(1, 101)), 99, 99),
        (list(range(1, 201)), 99, 198),
        ([1, 2], 0, 1),
        ([1, 2], 100, 2),
    ],
)
def test_percentiles_are_by_nearest_rank(
    values: list[float], percent: float, expected: float
) -> None:
    assert figures.rank(values, percent) == expected


def test_no_values_have_no_percentile() -> None:
    assert figures.spread([None]) is None
    with pytest.raises(ValueError, match="no values"):
        figures.rank([], 50)


def sample(due: float, sent: float, first: float, ended: float, **more: Any) -> Sample:
    tokens = {"completion_tokens": 10, "prompt_tokens": 5, "counted": True}
    return Sample(due, sent, 5, first=first, ended=ended, **{"stream": True, **tokens, **more})


def test_a_stall_of_the_server_is_not_hidden_by_an_open_loop() -> None:
    """One request a second was to be sent; the server stood still for ten, and the generator could
    send the next ones only after that. Each answer took a tenth of a second once it was sent."""
    stalled = [
        sample(at, max(at, 10.0), max(at, 10.0) + 0.1, max(at, 10.0) + 0.2) for at in range(20)
    ]
    found = figures.document(stalled, 20, open_loop=True)
    assert found["ttft_seconds"]["p50"] == pytest.approx(0.1)
    assert found["ttft_seconds"]["p95"] == pytest.approx(9.1)
    assert found["late_seconds"]["max"] == 10
    assert found["measured_from"] == "intended send time"
    closed = [replace(one, due=one.sent) for one in stalled]
    found = figures.document(closed, 20, open_loop=False)
    assert found["ttft_seconds"]["p99"] == pytest.approx(0.1)
    assert (found["late_seconds"], found["measured_from"]) == (None, "send time")


def test_failures_have_times_of_their_own() -> None:
    samples = [
        sample(0, 0, 1, 2, gaps=[0.25, 0.75]),
        sample(0, 0, 0, 3, stream=False),
        sample(0, 0, 0, 9, error="status 503"),
        sample(1, 1, 2, 4, error="status 503"),
    ]
    found = figures.document(samples, 10, open_loop=False)
    assert (found["ok"], found["failed"], found["failed_share"]) == (2, 2, 0.5)
    assert found["errors"] == {"status 503": 2}
    assert found["error_seconds"]["max"] == 9
    assert (found["ttft_seconds"]["n"], found["itl_seconds"]["n"]) == (1, 2)
    assert found["latency_seconds"]["max"] == 3
    assert (found["streams"]["requests"], found["whole"]["requests"]) == (3, 1)
    assert found["whole"]["ttft_seconds"] is None
    assert found["requests_per_second"] == 0.2
    assert found["completion_tokens_per_second"] == 4
    assert [row["due"] for row in found["over_time"][:3]] == [3, 1, 0]
    assert [row["in_flight"] for row in found["over_time"][:4]] == [3, 4, 3, 2]
    assert json.loads(json.dumps(found)) == found


def test_nothing_is_a_result_too() -> None:
    found = figures.document([], 0, open_loop=True)
    assert (found["requests"], found["ttft_seconds"], found["warnings"]) == (0, None, [])


@pytest.mark.parametrize(
    ("samples", "lags", "words"),
    [
        ([sample(0, 0, 1, 2)] * 100, [0.001], []),
        ([sample(0, 0, 1, 2)] * 100, [0.2], ["the load generator itself was 200 ms late"]),
        ([sample(0, 0, 1, 2)] * 99, [], ["only 99 good answers"]),
        ([sample(0, 0, 1, 2, counted=False)] * 100, [], ["chunks are counted"]),
    ],
)
def test_what_makes_numbers_doubtful(
    samples: list[Sample], lags: list[float], words: list[str]
) -> None:
    found = figures.warnings(samples, figures.spread(lags))
    assert len(found) == len(words)
    assert all(word in one for word, one in zip(words, found, strict=True))


def test_a_long_load_is_told_in_few_rows() -> None:
    rows = figures.over_time([sample(at, at, at + 1, at + 2) for at in range(3000)], 3002)
    assert len(rows) <= 120
    assert sum(row["due"] for row in rows) == 3000


def test_the_same_seed_makes_the_same_load() -> None:
    first, again = list(plan.items(LOAD)), list(plan.items(LOAD))
    assert first == again
    assert first != list(plan.items(replace(LOAD, seed=2)))
    assert [one.at for one in first] == [None] * 400
    assert 0.65 < sum(one.words == 5 for one in first) / 400 < 0.85
    assert 0.4 < sum(one.stream for one in first) / 400 < 0.6


def test_an_open_loop_has_its_times() -> None:
    even = [one.at for one in plan.items(replace(LOAD, rate=4, arrivals="even", seconds=1))]
    assert even == [0, 0.25, 0.5, 0.75, 1.0]
    poisson = [one.at or 0.0 for one in plan.items(replace(LOAD, rate=10))]
    assert all(a <= b for a, b in pairwise(poisson))
    assert 30 < poisson[-1] < 50


def test_a_body_has_the_length_that_was_asked_for() -> None:
    first, second, *_ = plan.items(LOAD)
    body = plan.body(LOAD, first)
    content = body["messages"][0]["content"].split()
    assert len(content) == first.words
    assert content[0] != plan.body(LOAD, second)["messages"][0]["content"].split()[0]
    assert ("stream_options" in body) is first.stream


@pytest.mark.parametrize(
    ("text", "expected"), [("7", ((7, 1.0),)), ("5:9, 2000:0.5", ((5, 9.0), (2000, 0.5)))]
)
def test_lengths(text: str, expected: Any) -> None:
    assert plan.prompts(text) == expected


@pytest.mark.parametrize("text", ["", "0", "x", "5:0", "5:-1", "5:inf", "5:nan", "1000001", "5,,6"])
def test_lengths_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="lengths of 1 to"):
        plan.prompts(text)


@pytest.mark.parametrize(
    ("value", "end"), [(0, 1), (-1, 1), (0.7, 1), (1, 1), (1.2, 2), (4, 5), (51, 100), (0.03, 0.05)]
)
def test_ends_of_axes(value: float, end: float) -> None:
    assert chart.nice(value) == pytest.approx(end)


def test_the_report_loads_nothing_and_escapes_what_it_is_told() -> None:
    samples = [sample(0, 0, 1, 2), sample(1, 1, 2, 3, error="<b>&")]
    numbers = figures.document(samples, 4, open_loop=True)
    head = {"url": "http://h/<x>", "model": "<m>", "loop": "l", "made_at": "t", "tidegate": "1"}
    page = report.page(head | numbers, samples)
    assert "<m>" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;&amp;: 1" in page
    drawings = re.findall(r"<svg.*?</svg>", page)
    assert [ET.fromstring(one).tag for one in drawings] == ["svg"] * 5
    assert not re.search(r"<script|<link|<img|@import|url\(|\bsrc=|\bhref=", page)
    assert "nan" not in page.lower()


def test_a_chart_without_values_says_so() -> None:
    assert "no values" in chart.lines("t", [chart.Series("s", [(0, None)])], x="x", y="y")
    assert "<circle" in chart.lines("t", [chart.Series("s", [(1, 2.0)])], x="x", y="y")


def test_a_distribution_ends_with_the_slowest() -> None:
    points = report.distribution([n / 1000 for n in range(1, 1001)])
    assert len(points) <= 201
    assert points[-1] == (100.0, 1000.0)
    assert report.distribution([]) == []
