"""Answers of the management API as tables for people. Programs ask for `--json`."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from tidegate_operator.cli import output

MODEL_COLUMNS = ("name", "task", "phase", "ready", "desired", "in_flight", "held")
KEY_COLUMNS = (
    "id", "prefix", "tenant", "project", "name", "created_at", "last_used_at", "expires_at",
    "revoked_at",
)  # fmt: skip
LINE_COLUMNS = ("model", "kind", "quantity", "unit_price_per_million", "amount_exact", "amount")
USAGE_NUMBERS = (
    "requests",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "reasoning_tokens",
    "amount_exact",
    "currency",
)
WORDS = frozenset(
    """
    name model task phase tenant project kind currency day id organization display_name time_zone role
    actor action time
    """.split()  # noqa: SIM905 - sixteen names read better than sixteen lines
)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(output.line(value))


def print_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], empty: str) -> None:
    """A table with the given columns, or the sentence for an empty one."""
    if not rows:
        print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        left = column in WORDS or column.endswith(("_id", "_at"))
        heading = column.replace("_", " ")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    Console().print(table)


def print_usage(answer: Mapping[str, Any], by: Sequence[str]) -> None:
    """Usage, grouped as asked, and how much of it is still on its way to the ledger."""
    names = {"key": "key_id"}
    columns = [*(names.get(name, name) for name in by), *USAGE_NUMBERS]
    print_rows(answer.get("data", []), columns, "no billed usage in this time")
    if answer.get("unshipped"):
        print(f"{answer['unshipped']} records are still on their way to the ledger")


def print_invoice(invoice: Mapping[str, Any]) -> None:
    """An invoice: its lines, then its total."""
    print(f"{invoice.get('tenant')}, {invoice.get('period')}")
    print_rows(invoice.get("lines", []), LINE_COLUMNS, "no lines")
    print(f"total {invoice.get('total')} {invoice.get('currency')}")


def _cell(value: object) -> str:
    return "" if value is None else str(value)
