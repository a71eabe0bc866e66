"""docs/prices.md cannot lie: its documents are read, and its sums are computed from them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tidegate_billing import money
from tidegate_billing.rates import book, contract, document, lines, pipeline
from tidegate_billing.rates.lines import Total
from tidegate_billing.rates.meters import METERS, NOTHING, PLACES, Quantities, Used
from tidegate_billing.rates.pipeline import Rate
from tidegate_billing.rates.terms import UNPRICED, Book, Contract, Entry

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "prices.md").read_text()
BLOCK = re.compile(
    r"```yaml\n(?P<yaml>.*?)```|(?P<table>(?:^\|[^\n]*\|\n)+)", re.DOTALL | re.MULTILINE
)
PHASES = {"cold start": "cold_start_ms", "serving": "serving_ms", "idle tail": "idle_tail_ms"}

Example = tuple[dict[str, str], Book, Contract | None]


def rows(table: str) -> list[dict[str, str]]:
    head, _, *body = [
        [cell.strip() for cell in line[1:-1].split("|")] for line in table.splitlines()
    ]
    return [dict(zip(head, cells, strict=True)) for cells in body]


def examples() -> Iterator[Example]:
    """Every row that says what something costs, with the book and the contract above it."""
    prices: Book | None = None
    terms: Contract | None = None
    for block in BLOCK.finditer(TEXT):
        if block["yaml"]:
            read: Any = yaml.safe_load(block["yaml"])
            if "tenant" in read:
                terms = contract.parse(read)
            else:
                prices, terms = book.parse(read), None
        else:
            for row in rows(block["table"]):
                if "costs" in row:
                    assert prices is not None
                    yield row, prices, terms


EXAMPLES = list(examples())


def the_rate(prices: Book, terms: Contract | None, tier: str = "") -> Rate:
    found = pipeline.rate(prices.entries[0].model, "", tier, books=[prices], contract=terms)
    assert found is not None
    return found


def used_in(row: dict[str, str], rate: Rate) -> Quantities:
    if "serving" in row:
        phases = {name: number(row[phase], 1_000) for phase, name in PHASES.items()}
        return pipeline.quantities(rate, Used(**phases))
    used = NOTHING
    for head, cell in row.items():
        if head.strip("`") in PLACES:
            meter = METERS[PLACES[head.strip("`")]]
            used = used._replace(**{meter.name: number(cell, meter.counted)})
    return used


def number(cell: str, counted: int) -> int:
    whole, rest = divmod(money.parse(cell.replace(",", "")) * counted, money.ATTO)
    assert rest == 0
    return whole


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=lambda e: f"{e[1].name} {' '.join(e[0].values())}"[:60]
)
def test_every_sum_is_what_the_documents_say(example: Example) -> None:
    row, prices, terms = example
    rate = the_rate(prices, terms, row.get("tier", ""))
    used = used_in(row, rate)
    assert pipeline.charge(rate, used) == money.parse(row["costs"])


def test_every_kind_has_an_example() -> None:
    names = {prices.name for _, prices, _ in EXAMPLES}
    assert set(document.KINDS) | {"list-2026", "dedicated", "tiers"} == names
    assert len(EXAMPLES) == 31
    assert any(terms is not None for _, _, terms in EXAMPLES)


def test_the_meters_are_all_there_and_no_other() -> None:
    section = TEXT.split("## Meters")[1].split("\n## ")[0]
    table = next(match["table"] for match in BLOCK.finditer(section))
    listed = {row["meter"].strip("`"): row["without a price"] for row in rows(table)}
    assert list(listed) == list(PLACES)
    holes = pipeline.rate(
        "m",
        "",
        "",
        books=[Book(name="b", currency="USD", entries=(Entry(model="m", prices=UNPRICED),))],
    )
    assert holes is not None
    waiting = {METERS[place].field for place in holes.holes}
    assert {field for field, said in listed.items() if said == "usage waits for one"} == waiting


@pytest.mark.parametrize(
    ("heading", "shape"),
    [("## A book", document.BookShape), ("## A contract", document.ContractShape)],
)
def test_every_field_is_explained(heading: str, shape: Any) -> None:
    section = TEXT.split(heading)[1].split("\n## ")[0]
    missing = [name for name in shape.__struct_encode_fields__ if f"{name}" not in section]
    assert missing == []
    inner = document.EntryShape if shape is document.BookShape else document.OverrideShape
    for name in inner.__struct_encode_fields__:
        assert re.search(rf"`[^`]*\b{name}`", section), name


def test_the_invoice_on_the_page() -> None:
    _, prices, terms = EXAMPLES[-1]
    assert terms is not None
    totals = [Total(1, the_rate(prices, terms), Quantities(image=111, request=1))]
    bill = lines.bill(totals, "USD", terms.minimum)
    table = rows(next(m["table"] for m in BLOCK.finditer(TEXT.split("## An invoice")[1])))
    printed = [(row["exact"], row["amount"]) for row in table]
    expected = [
        (money.plain(line.exact), money.printed(line.rounded, "USD")) for line in bill.lines
    ]
    assert printed == [*expected, ("", money.printed(bill.total, "USD"))]
    for row, line in zip(table, bill.lines, strict=False):
        assert row["line"].startswith(line.kind)
        if line.meter is not None:
            assert str(line.part.quantity) in re.findall(r"\d+", row["line"])


def test_the_order_is_the_pipelines() -> None:
    steps = re.findall(r"^\d\. \*\*(.+?)\.\*\*", TEXT, re.MULTILINE)
    assert steps == re.findall(r"^\d\. \*\*(.+?)\.\*\*", pipeline.__doc__ or "", re.MULTILINE)
    assert len(steps) == 8
