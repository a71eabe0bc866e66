"""Messages on their way: signed, retried, logged, never into our own network; a real receiver."""

import asyncio
import dataclasses
import itertools
import shutil
import ssl
import subprocess
import threading
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert, select, text

from ledgers import Ledger
from receivers import Receiver, receiving
from tidegate_billing import alerts, deliveries
from tidegate_billing.destinations import Policy
from tidegate_billing.service import Service
from tidegate_billing.snapshot import Snapshots
from tidegate_billing.tables import TENANT
from tidegate_billing.webhooks import queue, sending, signing
from tidegate_billing.webhooks.post import Poster
from tidegate_billing.webhooks.tables import (
    WEBHOOK_DELIVERY,
    WEBHOOK_ENDPOINT,
    WEBHOOK_TRY,
)
from tidegate_billing.webhooks.worker import EACH, Worker
from tidegate_billing.who.tables import AUDIT, DEFAULT

START = 1_800_000_000_000_000
HOUR = 3_600_000_000
LOCAL = Policy(private=True, loopback_http=True)
SECRET = alerts.make_secret(b"s" * 24)


class Sender:
    """A worker over a ledger, with a clock that tests move."""

    def __init__(self, ledger: Ledger, poster: Poster) -> None:
        self.ledger = ledger
        self.now = START
        service = Service(ledger.database, Snapshots(version=1), "a", "i", {1: b"p"})
        self.worker = Worker(service, poster, lambda: self.now)
        ledger(
            lambda c: c.execute(
                insert(TENANT).values(id="acme", created_at=0, organization=DEFAULT)
            )
        )

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        self.ledger._runner.run(work())  # type: ignore[arg-type]

    def turn(self) -> None:
        """Send all that is due now, and what follows from that."""

        async def work() -> None:
            while await self.worker.turn():
                await self.worker.idle()

        self.run(work)

    def endpoint(self, url: str, name: str = "e", secret: str = SECRET) -> None:
        values = {"id": name, "tenant": "acme", "url": url, "created_at": START,
                  "secrets": signing.first(secret)}  # fmt: skip
        self.ledger(lambda c: c.execute(insert(WEBHOOK_ENDPOINT).values(values)))

    def tell(self, *identity: object) -> str:
        message = alerts.message("credit.low", self.now, {"tenant": "acme"}, *identity)
        self.ledger(sending.put, "acme", message, self.now)
        return message.id

    def all(self, table: Any) -> list[Any]:
        order = table.c.seq if "seq" in table.c else table.c.id
        return list(self.ledger(lambda c: c.execute(select(table).order_by(order)).all()))


@pytest.fixture
def sender(ledger: Ledger) -> Sender:
    return Sender(ledger, Poster(LOCAL))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as made:
        made.secrets = [SECRET]
        yield made


def test_a_message_arrives_signed_and_its_try_is_logged(sender: Sender, receiver: Receiver) -> None:
    receiver.clock = lambda: sender.now
    sender.endpoint(receiver.url())
    name = sender.tell(1)
    sender.turn()
    sender.tell(1)  # the same happening: nothing new
    sender.turn()
    assert (receiver.ids, receiver.refused) == ([name], [])
    assert receiver.bodies[0]["data"] == {"tenant": "acme"}
    (given,) = receiver.given
    assert (given[":path"], given["host"]) == ("/hook?a=1", f"127.0.0.1:{receiver.port}")
    (delivery,) = sender.all(WEBHOOK_DELIVERY)
    assert (delivery.state, delivery.tries, delivery.due) == ("delivered", 1, None)
    (line,) = sender.all(WEBHOOK_TRY)
    assert (line.status, line.note, line.state, line.number) == (200, "", "delivered", 1)


def test_it_is_tried_for_three_days_then_given_up_and_replayed_by_hand(
    sender: Sender, receiver: Receiver
) -> None:
    receiver.answer = lambda _number: 503
    sender.endpoint(receiver.url())
    name = sender.tell(1)
    sender.turn()
    waits = []
    while (due := sender.all(WEBHOOK_DELIVERY)[0].due) is not None:
        waits.append(due - sender.now)
        sender.now = due - 1
        sender.turn()
        assert receiver.came == len(waits), "it comes not before its time"
        sender.now = due
        sender.turn()
    assert sender.now - START == deliveries.LASTS
    assert 12 <= receiver.came <= 16
    assert all(later >= sooner for sooner, later in itertools.pairwise(waits[:8]))
    assert waits[0] >= deliveries.FIRST_WAIT
    (given_up,) = sender.all(WEBHOOK_DELIVERY)
    assert (given_up.state, given_up.tries) == ("failed", receiver.came)
    lines = sender.all(WEBHOOK_TRY)
    assert [line.number for line in lines] == list(range(1, receiver.came + 1))
    assert {line.note for line in lines} == {"answered 503"}
    receiver.answer = lambda _number: 204
    again = deliveries.replay(sending.delivery_of(given_up), "dlv_again", sender.now)
    sender.ledger(sending.write, "acme", [again])
    sender.turn()
    assert set(receiver.ids) == {name}
    assert [(row.state, row.by_hand) for row in sender.all(WEBHOOK_DELIVERY)] == [
        ("failed", False), ("delivered", True),
    ]  # fmt: skip


def test_an_endpoint_may_ask_for_time(sender: Sender, receiver: Receiver) -> None:
    receiver.answer, receiver.headers = (lambda _number: 429), {"retry-after": "7200"}
    sender.endpoint(receiver.url())
    sender.tell(1)
    sender.turn()
    assert sender.all(WEBHOOK_DELIVERY)[0].due == START + 2 * HOUR


def test_410_disables_the_endpoint_and_all_that_waits_for_it(
    sender: Sender, receiver: Receiver
) -> None:
    receiver.answer = lambda number: 500 if number == 1 else 410
    sender.endpoint(receiver.url())
    sender.tell(1)
    sender.turn()
    sender.tell(2)
    sender.turn()
    assert {row.state for row in sender.all(WEBHOOK_DELIVERY)} == {"gone"}
    (row,) = sender.all(WEBHOOK_ENDPOINT)
    assert (row.disabled_at, row.disabled_reason, row.revision) == (START, queue.GONE, 2)
    sender.now += 10 * HOUR
    sender.tell(3)
    sender.turn()
    assert receiver.came == 2
    query = select(AUDIT.c.actor, AUDIT.c.object_id).where(AUDIT.c.action.like("webhook%"))
    assert sender.ledger(lambda c: c.execute(query).all()) == [("system", "e")]


def test_what_was_under_way_when_its_endpoint_was_disabled_is_not_tried_again(
    sender: Sender, receiver: Receiver
) -> None:
    sender.endpoint(receiver.url())
    sender.tell(1)
    (delivery,) = sender.all(WEBHOOK_DELIVERY)
    sender.ledger(sending.stop, "acme", "e")
    done = sender.ledger(queue.finish, delivery.id, deliveries.Answer(500, 1), START, lambda: 0.0)
    assert (done.state, done.due, done.tries) == ("gone", None, 1)


def test_a_redirect_is_not_followed(sender: Sender, receiver: Receiver) -> None:
    with receiving() as other:
        receiver.answer, receiver.headers = (lambda _number: 302), {"location": other.url()}
        sender.endpoint(receiver.url())
        sender.tell(1)
        sender.turn()
        assert (receiver.came, other.came) == (1, 0)
    assert sender.all(WEBHOOK_TRY)[0].note == "answered 302, which is not followed"


def test_an_endpoint_that_hangs_delays_no_other(sender: Sender, receiver: Receiver) -> None:
    with receiving() as slow:
        slow.hold = threading.Event()
        sender.endpoint(slow.url(), "slow")
        for number in range(2 * EACH):
            sender.tell(number)
        sender.endpoint(receiver.url(), "quick")
        sender.tell("both")

        async def work() -> None:
            while await sender.worker.turn():
                pass
            while not (receiver.came == 1 and slow.came == EACH):
                await asyncio.sleep(0.01)
            assert await sender.worker.turn() == 0, "its other messages wait for a place"
            assert slow.hold is not None
            slow.hold.set()
            await sender.worker.idle()

        sender.run(work)
        sender.turn()
        assert slow.came == 2 * EACH + 1
    assert {row.state for row in sender.all(WEBHOOK_DELIVERY)} == {"delivered"}


class Slow:
    """A database whose reads are handed over only after all that was under way has ended."""

    def __init__(self, sender: Sender, hold: threading.Event) -> None:
        self._sender, self._hold = sender, hold
        self.write = sender.ledger.database.write

    async def read(self, query: Any) -> Any:
        found = await self._sender.ledger.database.read(query)
        self._hold.set()
        await self._sender.worker.idle()
        return found


def test_what_ends_while_the_queue_is_read_is_not_sent_again(
    sender: Sender, receiver: Receiver
) -> None:
    receiver.hold = threading.Event()
    sender.endpoint(receiver.url())
    sender.tell(1)

    async def work() -> None:
        assert await sender.worker.turn() == 1
        while receiver.came == 0:
            await asyncio.sleep(0.01)
        assert receiver.hold is not None
        slow: Any = Slow(sender, receiver.hold)
        sender.worker._service = dataclasses.replace(sender.worker._service, database=slow)
        assert await sender.worker.turn() == 0

    sender.run(work)
    assert receiver.came == 1


def test_who_does_not_answer_in_time_is_asked_again(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "TIMEOUT_SECONDS", 0.1)
    receiver.hold = threading.Event()
    sender.endpoint(receiver.url())
    sender.tell(1)
    sender.turn()
    (line,) = sender.all(WEBHOOK_TRY)
    assert (line.status, line.note, line.state) == (0, "no answer within 0.1 s", "waiting")


def test_both_secrets_sign_until_the_old_one_ends(sender: Sender, receiver: Receiver) -> None:
    fresh = alerts.make_secret(b"n" * 24)
    sender.endpoint(receiver.url())
    kept = signing.rotated(signing.first(SECRET), fresh, START + HOUR, START)
    sender.ledger(lambda c: c.execute(WEBHOOK_ENDPOINT.update().values(secrets=kept)))
    sender.tell(1)
    sender.turn()
    assert receiver.came == len(receiver.ids) == 1
    receiver.secrets = [fresh]
    sender.tell(2)
    sender.turn()
    sender.now += HOUR
    sender.tell(3)
    sender.turn()
    assert len(receiver.ids) == 3
    receiver.secrets = [SECRET]
    sender.tell(4)
    sender.turn()
    assert len(receiver.refused) == 1
    assert sender.all(WEBHOOK_TRY)[-1].status == 401


def test_secrets_of_before_end_when_they_were_said_to() -> None:
    kept = signing.first("a")
    kept = signing.rotated(kept, "b", 100, 0)
    kept = signing.rotated(kept, "c", 200, 10)
    assert signing.in_force(kept, 99) == ["c", "b", "a"]
    assert signing.in_force(kept, 100) == ["c", "b"]
    assert (signing.old_until(kept, 50), signing.old_until(kept, 200)) == (200, None)
    assert signing.in_force(signing.rotated(kept, "d", 20, 20), 20) == ["d"]
    for number in range(20):
        kept = signing.rotated(kept, str(number), 1000, 20)
    assert len(signing.in_force(kept, 20)) == signing.MOST


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("https://127.0.0.1:{port}/", "127.0.0.1"),
        ("https://localhost:{port}/", "allowed: public addresses"),
        ("https://[::ffff:127.0.0.1]:{port}/", "allowed: public addresses"),
        ("https://169.254.169.254/latest", "169.254.169.254"),
        ("http://127.0.0.1:{port}/", "allowed: https"),
    ],
)
def test_nothing_goes_into_our_own_network(
    sender: Sender, receiver: Receiver, url: str, says: str
) -> None:
    sender.worker._poster = Poster(Policy())
    sender.endpoint(url.format(port=receiver.port))
    sender.tell(1)
    sender.turn()
    (line,) = sender.all(WEBHOOK_TRY)
    assert (line.status, receiver.came) == (0, 0)
    assert says in line.note


def test_a_host_that_answers_at_its_second_address_is_reached(
    sender: Sender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Poster, "_resolve", resolving("127.0.0.9", "127.0.0.1"))
    sender.endpoint(receiver.url("localhost"))
    sender.tell(1)
    sender.turn()
    assert [given["host"] for given in receiver.given] == [f"localhost:{receiver.port}"]


@pytest.mark.parametrize(
    "url",
    ["https://no-such-host.invalid/", f"https://{'a' * 64}.test/", "https://x..test/"],
)
def test_a_name_that_means_nothing_is_a_failed_try(sender: Sender, url: str) -> None:
    sender.endpoint(url)
    sender.tell(1)
    sender.turn()
    (line,) = sender.all(WEBHOOK_TRY)
    assert (line.status, line.state) == (0, "waiting")
    assert "error" in line.note.lower()


def resolving(*addresses: str) -> Any:
    async def resolve(_self: Poster, _target: object) -> list[str]:
        return list(addresses)

    return resolve


def openssl(*words: str) -> None:
    subprocess.run(["openssl", *words], check=True, capture_output=True)


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A certificate of `hooks.test`, by an authority of its own."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl(
        "req", "-x509", *key, "-keyout", f"{tmp_path}/key", "-out", f"{tmp_path}/cert",
        "-subj", "/CN=hooks.test", "-addext", "subjectAltName=DNS:hooks.test",
    )  # fmt: skip
    return tmp_path


@pytest.mark.parametrize(
    ("host", "trusted", "says"),
    [
        ("hooks.test", True, ""),
        ("other.test", True, "ConnectError"),
        ("hooks.test", False, "ConnectError"),
    ],
)
def test_tls_is_verified_against_the_hosts_name(
    certificates: Path, monkeypatch: pytest.MonkeyPatch, host: str, trusted: bool, says: str
) -> None:  # fmt: skip
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates / "cert", certificates / "key")
    trust = ssl.create_default_context(cafile=str(certificates / "cert") if trusted else None)
    monkeypatch.setattr(Poster, "_resolve", resolving("127.0.0.1"))
    poster = Poster(Policy(private=True), trust)
    with receiving(server) as receiver:
        receiver.secrets = [SECRET]
        message = alerts.message("credit.low", START, {}, 1)
        headers = alerts.headers([SECRET], message, START)
        answer = asyncio.run(poster.send(receiver.url(host, "https"), headers, message.body))
        assert receiver.came == (0 if says else 1)
        assert [one["host"] for one in receiver.given] == [f"{host}:{receiver.port}"][says != "" :]
    assert (answer.status, answer.note.partition(":")[0]) == (0 if says else 200, says)
    assert ("certificate" in answer.note.lower()) == bool(says)


def test_the_queue_finds_what_is_due_by_an_index(ledger: Ledger) -> None:
    if ledger.kind != "sqlite":
        pytest.skip("the plan of a table without rows says nothing there")
    plan = ledger(
        lambda c: c.execute(
            text(
                "EXPLAIN QUERY PLAN SELECT id FROM webhook_delivery WHERE due <= 5 ORDER BY due, seq"
            )
        ).all()
    )
    assert "ix_webhook_delivery_due" in str(plan)
