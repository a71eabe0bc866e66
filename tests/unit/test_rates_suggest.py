"""Suggestions: drafts for a person, exact or left out, and never a price by themselves."""

import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import pytest

from tidegate_billing.rates import book, suggest
from tidegate_billing.rates.problem import DocumentError
from tidegate_billing.rates.suggest import NoSuggestion

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def test_a_suggestion_is_a_book_that_has_no_time_yet() -> None:
    found = suggest.suggest("gpt-4o", now=NOW, provider="openai")
    with pytest.raises(DocumentError) as caught:
        book.parse(found.document)
    assert [problem.path for problem in caught.value.problems] == ["effectiveFrom"]
    applied = book.parse({**found.document, "effectiveFrom": "2026-01-01T00:00:00Z"})
    assert applied.currency == "USD"
    (entry,) = applied.entries
    assert entry.model == "gpt-4o"
    assert entry.prices[0] is not None


def test_it_says_where_it_is_from() -> None:
    found = suggest.suggest("gpt-4o", now=NOW, provider="openai")
    assert found.provenance["package"] == "genai-prices"
    assert found.provenance["version"] == version("genai-prices")
    assert found.provenance["provider"] == "openai"
    assert found.provenance["model"] == "gpt-4o"
    assert found.provenance["at"] == "2026-01-01T00:00:00+00:00"
    assert str(found.document["name"]).endswith("openai gpt-4o")
    assert any(note.startswith("web_searches_kcount") for note in found.notes)


def test_the_provider_may_be_left_to_the_list() -> None:
    named = suggest.suggest("gpt-4o", now=NOW, provider="openai")
    assert suggest.suggest("gpt-4o", now=NOW) == named


@pytest.mark.parametrize(
    ("model", "provider"), [("no-such-model", None), ("gpt-4o", "nobody"), ("x", "openai")]
)
def test_what_the_list_does_not_have_is_no_suggestion(model: str, provider: str | None) -> None:
    with pytest.raises(NoSuggestion, match=f"no price for '{model}'"):
        suggest.suggest(model, now=NOW, provider=provider)


def test_a_model_whose_prices_fit_no_meter_is_no_suggestion(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import genai_prices

    pages = SimpleNamespace(input_document_kpages=Decimal(2))
    monkeypatch.setattr(
        genai_prices, "calc_price", lambda *_, **__: SimpleNamespace(model_price=pages)
    )
    with pytest.raises(NoSuggestion, match="that a book could have"):
        suggest.suggest("ocr", now=NOW)


@pytest.mark.parametrize("comment", [None, "checked by hand"])
def test_the_lists_own_comment_is_kept(
    monkeypatch: pytest.MonkeyPatch, comment: str | None
) -> None:
    import genai_prices

    found = SimpleNamespace(
        model_price=SimpleNamespace(input_mtok=Decimal(2)),
        provider=SimpleNamespace(id="p"),
        model=SimpleNamespace(id="m-1", price_comments=comment),
    )
    monkeypatch.setattr(genai_prices, "calc_price", lambda *_, **__: found)
    assert suggest.suggest("m", now=NOW).provenance["comment"] == (comment or "")


TIERED = SimpleNamespace(base=Decimal(3))


@pytest.mark.parametrize(
    ("listed", "prices", "notes"),
    [
        ({"input_mtok": Decimal("0.10"), "output_mtok": Decimal(10)}, {"input": "0.1", "output": "10"}, []),
        ({"input_mtok": Decimal(0)}, {"input": "0"}, []),
        ({"input_mtok": Decimal("1E-12")}, {"input": "0.000000000001"}, []),
        ({"input_mtok": Decimal("1E+2")}, {"input": "100"}, []),
        ({"input_mtok": Decimal("1E-13")}, {}, ["input_mtok 1E-13: no price with at most 12"]),
        ({"input_mtok": None, "output_mtok": Decimal(1)}, {"output": "1"}, []),
        ({"input_mtok": Decimal(1), "cache_read_mtok": Decimal("0.5")}, {"input": "1", "cachedInput": "0.5"}, []),
        ({"output_mtok": Decimal(1), "output_reasoning_mtok": Decimal(2)}, {"output": "1", "reasoning": "2"}, []),
        ({"cache_read_mtok": Decimal(1)}, {}, ["cachedInput 1: a book prices it beside input only"]),
        ({"output_reasoning_mtok": Decimal(2)}, {}, ["reasoning 2: a book prices it beside output"]),
        # an hour is 3,600 seconds, and a price is for one
        ({"input_audio_hours": Decimal("0.36")}, {"audioSecond": "0.0001"}, []),
        ({"input_audio_hours": Decimal("0.04")}, {}, ["input_audio_hours 0.04: no price with"]),
        ({"requests_kcount": Decimal(12)}, {"request": "0.012"}, []),
        ({"input_mtok": TIERED}, {"input": "3"}, ["input_mtok namespace"]),
        ({"input_mtok": "free"}, {}, ["input_mtok free: no price"]),
        ({"rerank_searches_kcount": Decimal(2)}, {}, ["rerank_searches_kcount 2: a book has no such"]),
    ],
)  # fmt: skip
def test_what_is_drafted(listed: dict[str, Any], prices: dict[str, str], notes: list[str]) -> None:
    drafted, said = suggest.drafted(listed)
    assert drafted == prices
    assert len(said) == len(notes)
    for found, start in zip(said, notes, strict=True):
        assert found.startswith(start)


def test_a_price_that_rises_with_a_prompt_says_so() -> None:
    _, (note,) = suggest.drafted({"input_mtok": TIERED})
    assert "only the base is in the draft" in note


def test_pricing_needs_neither_a_database_nor_a_list_of_prices() -> None:
    modules = ["book", "contract", "lines", "pipeline", "select", "suggest"]
    program = "import sys\n" + "".join(f"import tidegate_billing.rates.{m}\n" for m in modules)
    program += "print([m for m in sys.modules if m.split('.')[0] in {!r}])".format(
        {"sqlmodel", "sqlalchemy", "genai_prices", "pydantic", "httpx2", "starlette"},
    )
    done = subprocess.run(
        [sys.executable, "-Ic", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
