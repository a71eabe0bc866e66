"""docs/errors.md, the tables that take processes: every row happens, and says what it promises."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

import hub_server
import provoked_requests
import provoked_starts
import provoked_up
import running
import sim_process
from errors_doc import ROOT, Row, codes, plain, tables
from provoked_requests import Answer, Stage
from tidegate_operator.outcome import REASONS
from tidegate_runtime.account import _PASSED_ON

STARTS = {row.id: row for row in tables()["Starts"]}
BY_ROUTERS = {"AnswerFailed", "EngineHung"}
"""Found by routers, and told in their words in a cluster as here."""
REQUESTS = {f"{row.id} {row.cells['status']}": row for row in tables()["Requests"]}
GATEWAY = sorted((ROOT / "runtime" / "tidegate_runtime").rglob("*.py"))
KINDS = ("TenantError", "PaymentError", "EngineError", "PlatformError")


@pytest.fixture(scope="module")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sim_process.Sim]:
    flags = ("--ttft-ms", "1", "--tokens-per-second", "500")
    with sim_process.running(tmp_path_factory.mktemp("sim"), *flags, model="m") as one:
        yield one


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[running.Platform]:
    folder = tmp_path_factory.mktemp("up")
    document = provoked_up.document() + provoked_starts.document()
    with hub_server.serving() as hub:
        provoked_starts.fill(hub)
        env = provoked_starts.offline(hub, str(folder))
        more = ("--cache", str(folder / "cache"), "-f", str(provoked_up.follow(folder / "more")))
        with running.platform(folder, document, *more, env=env) as one:
            yield one


@pytest.fixture(scope="module")
def failed(up: running.Platform) -> dict[str, str]:
    """What was told of every start that fails on this machine."""
    return provoked_starts.ask(up)


# Starts


@pytest.mark.parametrize("row", STARTS)
def test_a_failed_start_is_told_as_promised(row: str, failed: dict[str, str]) -> None:
    where = STARTS[row].cells["where"]
    assert (row in provoked_starts.LOCAL) == (where in {"local", "both"})
    texts = [failed.get(row, "")]
    if where != "local" and row not in BY_ROUTERS:
        found = provoked_starts.CLUSTER[row]
        assert found is not None
        assert found.reason == row
        texts.append(found.message)
    text = plain(" ".join(texts))
    assert STARTS[row].words()
    for word in STARTS[row].words():
        assert word in text


def test_every_reason_has_a_row() -> None:
    assert list(STARTS) == [row.id for row in tables()["Starts"]], "a reason is given twice"
    assert STARTS.keys() == REASONS
    assert provoked_starts.CLUSTER.keys() <= REASONS


# Requests


def keeps(row: Row, told: list[Answer]) -> None:
    """The answers are what the row promises."""
    cells = row.cells
    in_band = [one for one in told if one.in_band]
    plainly = [one for one in told if not one.in_band]
    assert {one.status for one in plainly} <= {int(cells["status"])}
    assert (bool(plainly), bool(in_band)) == {
        "no": (True, False), "yes": (True, True), "only": (False, True)
    }[cells["in a stream"]]  # fmt: skip
    wait = None if cells["retry after"] == "no" else cells["retry after"]
    assert {one.retry_after for one in plainly} <= {wait}
    if row.id != "passed-on":
        assert {(one.code, f"`{one.kind}`") for one in told} == {(row.id, cells["type"])}
    text = plain(" ".join(one.message for one in told))
    assert row.words()
    for word in row.words():
        assert word in text


@pytest.mark.parametrize("row", provoked_requests.REQUESTS)
async def test_a_refused_request_is_told_as_promised(
    row: str, tmp_path: Path, sim: sim_process.Sim
) -> None:
    async with asyncio.timeout(30):
        told = await provoked_requests.REQUESTS[row](Stage(tmp_path, sim))
    keeps(REQUESTS[row], told)


@pytest.mark.parametrize("row", provoked_up.REQUESTS)
def test_a_request_that_billing_bounds_is_told_as_promised(row: str, up: running.Platform) -> None:
    keeps(REQUESTS[row], provoked_up.REQUESTS[row](up))


# Files


@pytest.mark.parametrize("row", provoked_up.FILES)
def test_what_comes_of_files_later_is_told_as_promised(row: str, up: running.Platform) -> None:
    [found] = [one for one in tables()["Files"] if one.id == row]
    text = plain(provoked_up.FILES[row](up, up.data.parent / "more"))
    assert found.words()
    for word in found.words():
        assert word in text


def test_every_code_of_the_gateway_has_a_row_and_every_row_is_provoked() -> None:
    assert len(REQUESTS) == len(tables()["Requests"]), "a code is given twice with one status"
    assert REQUESTS.keys() == provoked_requests.REQUESTS.keys() | provoked_up.REQUESTS.keys()
    found, elsewhere = codes(GATEWAY, KINDS)
    assert [one for one in elsewhere if "account.py" not in one] == [], "a code that is no literal"
    assert {row.id for row in REQUESTS.values()} - {"passed-on"} == found | {
        code for _, code in _PASSED_ON
    }
