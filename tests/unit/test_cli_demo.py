"""What the demo reads and writes: resources, truth files, counters, months, its own environment."""

import json
from datetime import date
from pathlib import Path

import pytest
import yaml

from tidegate_operator.cli.demo import readings, resources
from tidegate_operator.cli.demo.closing import Settlement, Tokens
from tidegate_operator.cli.demo.play import blank
from tidegate_operator.cli.demo.stage import clean
from tidegate_operator.cli.demo.story import summary


def test_two_wakes_are_of_one_model_and_many_are_spread() -> None:
    assert resources.names("sim", 1) == ["sim-1"]
    assert resources.names("sim", 2) == ["sim-1"]
    assert resources.names("sim", 200) == ["sim-1", "sim-2", "sim-3", "sim-4"]
    assert len(resources.names("vllm", 200)) == 1


@pytest.mark.parametrize("engine", ["sim", "vllm"])
def test_resources_are_yaml_at_zero_replicas_with_prices(engine: str) -> None:
    models = resources.names(engine, 200)
    documents = list(yaml.safe_load_all(resources.text(engine, models)))
    assert [d["metadata"]["name"] for d in documents] == models
    for document in documents:
        assert document["spec"]["scaling"]["minReplicas"] == 0
        assert document["spec"]["pricing"]["outputPerMillion"] == "0.40"


def test_the_last_line_of_an_attempt_is_its_truth(tmp_path: Path) -> None:
    lines = [
        {"attempt_id": "a", "prompt_tokens": 3, "generated_tokens": 1, "sent_tokens": 1},
        {"attempt_id": "a", "prompt_tokens": 3, "generated_tokens": 9, "sent_tokens": 9},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "m-0.ndjson").write_text(text + '{"attempt_id": "b", "prom')
    (tmp_path / "n-0.ndjson").write_text(
        '{"attempt_id": "c", "prompt_tokens": 1, "generated_tokens": 2}\n'
    )
    assert readings.truth(tmp_path) == {"a": Tokens(3, 9), "c": Tokens(1, 2)}
    assert readings.truth(tmp_path / "none") == {}


def test_counters_are_summed_over_labels() -> None:
    text = """# HELP vllm:prompt_tokens_total Number of prefill tokens processed.
vllm:prompt_tokens_total{engine="0",model_name="a b"} 12.0
vllm:prompt_tokens_total{engine="1",model_name="a b"} 3.0
vllm:generation_tokens_total{engine="0"} 1e2
vllm:generation_tokens_created{engine="0"} 1.7e9
"""
    assert readings.counters(text) == Tokens(15, 100)
    assert readings.counters("") == Tokens(0, 0)


def test_cached_input_is_input() -> None:
    lines = [
        {"kind": "input", "quantity": 5},
        {"kind": "cached_input", "quantity": 2},
        {"kind": "output", "quantity": 9},
    ]
    assert readings.invoiced(lines) == Tokens(7, 9)


def test_settlements_of_the_events_api() -> None:
    row = {"attempt_id": "a", "billed": True, "prompt_tokens": 1, "completion_tokens": 2}
    assert readings.settlements([row]) == (Settlement("a", True, Tokens(1, 2)),)


def test_a_demo_over_the_end_of_a_month_has_two_invoices() -> None:
    assert readings.months(date(2025, 1, 31), date(2025, 2, 1)) == ["2025-01", "2025-02"]
    assert readings.months(date(2025, 1, 30), date(2025, 1, 31)) == ["2025-01"]


def test_settings_of_another_platform_do_not_reach_the_demo() -> None:
    environ = {"PATH": "/bin", "TIDEGATE_ADMIN_URL": "http://x", "TIDEGATE_CACHE": "/c"}
    assert clean(environ) == {"PATH": "/bin", "TIDEGATE_CACHE": "/c"}


def test_the_result_has_the_promised_shape_from_the_start() -> None:
    result = blank("sim")
    assert list(result) == [
        "version",
        "ok",
        "error",
        "engine",
        "model",
        "requests",
        "held",
        "cold_start_seconds",
        "first_token_seconds",
        "own_share_ms",
        "engine_tokens",
        "ledger_tokens",
        "unbilled_tokens",
        "bill",
    ]
    assert result["ok"] is False
    assert list(result["own_share_ms"]) == ["n", "p50", "p99", "max"]
    assert list(result["bill"]) == ["currency", "amount", "amount_exact"]
    assert summary(result).row_count == 11
