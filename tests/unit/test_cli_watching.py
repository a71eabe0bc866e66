"""What `status`, `logs`, `chat` and the live view make of what they see."""

import io
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tidegate_operator.cli import board, chat, keyboard, logs, sse, talk, watching
from tidegate_operator.cli.failure import CommandError
from tidegate_operator.local import enginelog

ROW: dict[str, Any] = {
    "name": "m", "deployment": "default/m", "phase": "Ready", "ready": 1, "desired": 1,
    "in_flight": 2, "held": 0, "since": 40.0, "phase_detail": "", "warning": "", "draining": 0,
    "input_per_second": 0.0, "output_per_second": 51.25, "start": None,
    "cold_start": {"last_seconds": 1.5, "phases": {"launching": 0.25, "loading": 1.25}},
}  # fmt: skip
STARTING = ROW | {
    "phase": "Starting", "ready": 0, "output_per_second": 0.0,
    "start": {"replica": "r", "seconds": 2.0, "phases": {"launching": 0.5, "loading": 1.5}},
}  # fmt: skip


def seen(*rows: dict[str, Any], costs: Any = None, unshipped: int = 0) -> watching.Seen:
    return watching.Seen(100.0, "http://g", "http://a", [], list(rows), costs, unshipped)


def drawn(what: Any) -> str:
    out = io.StringIO()
    Console(width=200, file=out).print(what)
    return out.getvalue()


def test_a_row_has_what_one_looks_for() -> None:
    text = drawn(board.table(seen(ROW, costs={"m": {"USD": Decimal("0.000016")}}), 107.0))
    for word in ("Ready", "1m07s", "1/1", "51.2", "0.000016 USD"):
        assert word in text
    text = drawn(board.page(seen(STARTING), 107.0, chosen="default/m", log=["x"], help_line="keys"))
    for word in (
        "> m",
        "m: starting for 2.0s: launching 0.5, loading 1.5",
        "billing has not",
        "keys",
    ):
        assert word in text


def test_a_clock_that_stands_still_shows_no_duration() -> None:
    idle = ROW | {"phase": "Idle"}
    assert board.lasted(idle, 107.0, live=False) == "1m07s"
    assert board.lasted(idle, 107.0, live=True).startswith("since ")
    assert board.lasted(ROW, 107.0, live=True) == "1m07s"


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ROW | {"cold_start": {}, "phase_detail": "EngineExited: x"}, "EngineExited: x"),
        (ROW | {"cold_start": {}, "draining": 1, "warning": "no price"}, "1 draining; warning: no price"),
    ],
)  # fmt: skip
def test_details(row: dict[str, Any], words: str) -> None:
    assert board.detail(row) == words


def test_money_is_added_as_decimals() -> None:
    usage = [
        {"model": "m", "amount_exact": "0.1", "currency": "USD"},
        {"model": "m", "amount_exact": "0.2", "currency": "USD"},
        {"model": "n", "amount_exact": "0.0000000000000001", "currency": "EUR"},
        {"model": "n", "amount_exact": None, "currency": None},
    ]
    costs = watching.by_model(usage)
    assert costs == {"m": {"USD": Decimal("0.3")}, "n": {"EUR": Decimal("1E-16")}}
    assert (
        watching.money_words(watching.total(costs.values())) == "0.0000000000000001 EUR + 0.3 USD"
    )
    document = seen(ROW, costs=costs).document()
    assert document["data"][0]["cost"] == [{"currency": "USD", "amount_exact": "0.3"}]
    assert document["cost_since"] == "1970-01-01"
    assert seen(ROW).document()["cost"] is None


@pytest.mark.parametrize(
    ("amount", "text"), [("1E-7", "0.0000001"), ("0.50", "0.5"), ("100", "100"), ("0.000", "0")]
)
def test_amounts_in_full(amount: str, text: str) -> None:
    assert watching.exact(Decimal(amount)) == text


@pytest.mark.parametrize(
    ("what", "row", "done"),
    [
        ("wake", ROW, True),
        ("wake", STARTING, False),
        ("wake", STARTING | {"desired": 0}, True),
        ("sleep", ROW | {"desired": 0}, False),
        ("sleep", ROW | {"desired": 0, "ready": 0, "phase": "Idle", "draining": 1}, False),
        ("sleep", ROW | {"desired": 0, "ready": 0, "phase": "Idle"}, True),
        ("sleep", STARTING, True),
    ],
)
def test_when_a_wish_is_done(what: str, row: dict[str, Any], done: bool) -> None:
    assert watching.settled(row, what) is done


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ws", ["w", "s"]), ("\x1b[A\x1b[Bj", ["up", "down", "down"]), ("\x1b[3~\x1bOAq", ["up", "q"])],
)  # fmt: skip
def test_keys(text: str, expected: list[str]) -> None:
    assert keyboard.keys(text) == expected


def test_the_end_of_a_log(tmp_path: Path) -> None:
    file = tmp_path / "e.log"
    file.write_text("".join(f"{n} {'x' * 100}\n" for n in range(2000)))
    assert [line.split()[0] for line in logs.tail(file, 3)] == ["1997", "1998", "1999"]
    assert (len(logs.tail(file, 5000)), logs.tail(file, 0)) == (2000, [])


def test_logs_outlive_their_platform(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = tmp_path / "logs" / "engines" / "default_m"
    where.mkdir(parents=True)
    with pytest.raises(CommandError, match="no platform is running"):
        logs.find(tmp_path, "other")
    found = logs.find(tmp_path, "m")
    assert found == where == logs.find(tmp_path, "default/m")
    with pytest.raises(CommandError, match="has said anything"):
        logs.show(found, None, 5)
    (where / "m-1.log").write_text("a\nb\n")
    logs.show(found, None, 1)
    assert capsys.readouterr().out == "b\n"
    with pytest.raises(CommandError, match="known: m-1"):
        logs.show(found, "m-2", 1)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", None),
        (": heartbeat", None),
        ("event: x", None),
        ("data: [DONE]", sse.Chunk(done=True)),
        ('data: {"choices": [{"delta": {"content": "a"}}]}', sse.Chunk("a")),
        ('data: {"choices": [{"text": "a"}]}', sse.Chunk("a")),
        ('data: {"choices": [{"delta": {"reasoning_content": "hm"}}]}', sse.Chunk(thought="hm")),
        ('data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}',
         sse.Chunk(tokens=sse.Tokens(3, 4))),
        ('data: {"error": {"message": "no", "code": "c"}}', sse.Chunk(error="no (c)")),
        ("data: {", sse.Chunk(error="not an event: '{'")),
    ],
)  # fmt: skip
def test_lines_of_a_stream(line: str, said: sse.Chunk | None) -> None:
    assert sse.chunk(line) == said


def test_what_an_answer_took_and_cost() -> None:
    answer = talk.Answer("t", "req", 0.5, 2.5, sse.Tokens(6, 21), {"USD": Decimal("0.0000086")})
    assert answer.per_second == 10.0
    assert chat.summary(answer) == (
        "[6 tokens in, 21 out, first token 0.50 s, 10.0 tokens/s, 0.0000086 USD]"
    )
    assert answer.document()["cost"] == [{"currency": "USD", "amount_exact": "0.0000086"}]
    cut = answer._replace(tokens=None, cost=None, error="interrupted")
    assert chat.summary(cut) == "[first token 0.50 s, cost not known yet, interrupted]"


def test_a_receipt_in_money() -> None:
    amount = {"value": 8.6e-06, "value_exact": "0.0000086", "currency": "usd"}
    receipt = {"price_pending": False, "amounts": [amount]}
    assert talk.amounts(receipt) == {"USD": Decimal("0.0000086")}
    assert talk.amounts(receipt | {"price_pending": True}) is None


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ROW, "m is at work"),
        (STARTING | {"phase_detail": "loading"}, "m is starting: loading"),
        (STARTING, "m is starting: not begun yet"),
        (STARTING | {"phase": "Idle"}, "waiting for m: Idle"),
    ],
)
def test_what_is_waited_for(row: dict[str, Any], words: str) -> None:
    assert chat.waiting_for(row) == words


def test_the_longest_name_has_a_log(tmp_path: Path) -> None:
    longest = f"{'n' * 63}/{'m' * 253}"
    file = enginelog.path(tmp_path, longest, "m-1")
    log = enginelog.EngineLog(file)
    log.write("hello")
    log.close()
    assert logs.find(tmp_path, longest) == file.parent != enginelog.folder(tmp_path, longest[:-1])
    assert file.read_text() == "hello\n"
