"""Four routers on one credit of 1.00, in simulated time: billing's core and the routers' wallets.

Everything between them is late: questions and answers take 1 to 30 ms, recalls up to 400 ms (billing
waits 250), usage up to 2 s and in no order between routers. Half of the streams and of the other requests name no
`max_tokens`, some ask several answers, some prompts are longer than estimated, some clients leave.
A run is a function of its seed.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import pytest

from tidegate_billing import credit, leases
from tidegate_billing.credit import Grant, Purse
from tidegate_billing.leases import BLOCKED, TERM, Granted, Pots, Recall, Refused, Want
from tidegate_billing.money import ATTO, plain
from tidegate_runtime.wallet import (
    Empty,
    Quote,
    Rates,
    Reservation,
    Wallet,
    price,
    prompt_tokens,
    quote,
)

CREDIT = ATTO
RATES = Rates(input=10**12, output=4 * 10**12)
"""1.00 and 4.00 per million: the credit is a quarter of a million tokens of answers."""
SMALLEST = quote(RATES, prompt_tokens(b"x" * 100), choices=1, max_tokens=1, longest=8192)
LONGEST = 8192
US = 1_000_000


@dataclass
class Asked:
    """A request of a client. `prompt` and `says` (tokens per answer) are the engine's truth."""

    quote: Quote
    choices: int
    prompt: int
    says: int
    seconds: float


class Told(NamedTuple):
    """A settled request in a journal; `at`: when it was let in."""

    cost: int
    at: int
    pots: tuple[str, ...]


@dataclass
class Router:
    name: str
    wallet: Wallet = field(default_factory=Wallet)
    waiting: list[Asked] = field(default_factory=list)
    running: dict[int, tuple[Reservation, Asked, int]] = field(default_factory=dict)
    journal: list[Told] = field(default_factory=list)
    shipping: bool = False
    up: bool = True
    life: int = 0
    linked: bool = True
    session: int = 0  # what was said in an earlier one does not arrive
    admitted: int = 0
    refused: int = 0


class Run:
    """The event loop, billing, and what is known of the truth."""

    def __init__(
        self, seed: int, *, pots: tuple[str, ...] = ("credit",), billed: int = 100
    ) -> None:
        self.rng = random.Random(seed)
        self.now = 1000.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.turn = itertools.count()
        self.names = pots
        self.pots: Pots = {}
        for name in pots:
            self.pots = leases.move(self.pots, name, CREDIT)
        self.routers = [Router(name) for name in "abcd"]
        self.billed = billed  # percent of its own price that the tenant pays
        self.error = 0  # by how much prompts were underestimated
        self.unsaid = 0  # what was spent and will never be told
        self.told_empty = False
        self.recalls: dict[int, tuple[set[str], Callable[[], None]]] = {}
        self.back: list[tuple[str, str, int]] = []
        for router in self.routers:
            self.at(self.rng.uniform(0, 10), partial(self.renew, router))
        self.at(1, self.expire)

    # Time

    def at(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.turn), what))

    def link(self) -> float:
        return self.rng.uniform(0.001, 0.03)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.events and self.events[0][0] <= end:
            self.now, _, what = heapq.heappop(self.events)
            what()
        self.now = end

    @property
    def us(self) -> int:
        return int(self.now * US)

    # Clients

    def load(self, seconds: float, rate: float) -> None:
        """Requests of every kind, at all routers."""
        moment = 0.0
        while (moment := moment + self.rng.expovariate(rate)) < seconds:
            self.at(moment, partial(self.arrive, self.rng.choice(self.routers), self.request()))

    def request(self) -> Asked:
        rng = self.rng
        size = rng.randint(100, 4000)
        choices = rng.choice([1, 1, 1, 2, 4])
        limit = rng.choice([None, None, 16, 200, 1000])
        asked = quote(
            RATES, prompt_tokens(b"x" * size), choices=choices, max_tokens=limit, longest=LONGEST
        )
        return Asked(
            asked, choices, int(size * rng.uniform(0.15, 0.45)), rng.randint(1, 900),
            rng.uniform(0.05, 1.0) if rng.random() < 0.5 else rng.uniform(0.5, 20.0),
        )  # fmt: skip

    def arrive(self, router: Router, asked: Asked) -> None:
        if not router.up:
            return
        found = router.wallet.reserve(self.names, asked.quote, self.now)
        if isinstance(found, Reservation):
            self.admit(router, asked, found)
        elif isinstance(found, Empty):
            router.refused += 1
        else:
            router.waiting.append(asked)
            self.question(router, {name: Want(*lack) for name, lack in found.missing.items()})
        self.ask_ahead(router)

    def admit(self, router: Router, asked: Asked, held: Reservation) -> None:
        if held.amount:
            self.no_more_than_there_is()
        router.admitted += 1
        number = next(self.turn)
        router.running[number] = (held, asked, self.us)
        self.at(asked.seconds, partial(self.finish, router, router.life, number))

    def cost(self, held: Reservation, asked: Asked, share: float = 1.0) -> int:
        tokens = int(min(asked.says, held.tokens) * asked.choices * share)
        return price(RATES, asked.prompt, tokens)

    def finish(self, router: Router, life: int, number: int) -> None:
        if router.life != life or number not in router.running:
            return
        held, asked, at = router.running.pop(number)
        left_early = self.rng.random() < 0.1
        cost = self.cost(held, asked, self.rng.random() if left_early else 1.0)
        self.error += max(0, cost - held.amount)
        router.wallet.settle(held, cost)
        router.journal.append(Told(cost, at, held.pots))
        self.ship(router)

    # Usage

    def ship(self, router: Router) -> None:
        """One batch is under way at a time; it says what was spent when it was cut."""
        if router.shipping or not router.journal or not router.up or not router.linked:
            return
        router.shipping = True
        batch, router.journal = router.journal, []
        spent = router.wallet.spent()
        self.at(
            self.rng.uniform(0.01, 2.0), partial(self.ingest, router, router.life, batch, spent)
        )

    def ingest(self, router: Router, life: int, batch: list[Told], spent: dict[str, int]) -> None:
        self.rng.shuffle(batch)
        for told in batch:
            self.burn(told)
            for name in told.pots:
                cost = told.cost * self.billed // 100
                self.pots = leases.consume(self.pots, router.name, name, cost)
        if router.life == life:
            self.pots = leases.agree(self.pots, router.name, spent)
        router.shipping = False
        self.tell()
        self.ship(router)

    def burn(self, told: Told) -> None:
        """Usage is taken from a purse, where there is one."""

    def tell(self) -> None:
        """The snapshot stream: a pot is empty, or there is something again."""
        empty = any(self.pots[name].exhausted for name in self.names)
        if empty == self.told_empty:
            return
        self.told_empty = empty
        for router in self.routers:
            for name in self.names:
                self.at(
                    self.link(), partial(self.hear_word, router, name, self.pots[name].exhausted)
                )

    def hear_word(self, router: Router, name: str, empty: bool) -> None:
        if empty:
            router.wallet.emptied(name, self.now)
        else:
            router.wallet.filled(name)

    # Questions

    def ask_ahead(self, router: Router) -> None:
        for name, need in list(router.wallet.low.items()):
            del router.wallet.low[name]
            self.question(router, {name: Want(need, 0)}, ahead=True)

    def question(self, router: Router, wants: dict[str, Want], *, ahead: bool = False) -> None:
        if not router.linked or not router.wallet.ask(wants, self.now):
            return
        self.at(self.link(), partial(self.answer, router, router.session, wants, self.now, ahead))

    def answer(
        self, router: Router, session: int, wants: dict[str, Want], sent: float, ahead: bool,
        recalled: bool = False,
    ) -> None:  # fmt: skip
        if router.session != session:
            return
        before = {name: self.pots[name].free for name in wants}
        self.pots, found = leases.ask(
            self.pots, router.name, wants, self.us, routers=4, recalled=recalled, ahead=ahead
        )
        if isinstance(found, Recall):
            again = partial(self.answer, router, session, wants, sent, ahead, True)
            self.recall(found, again)
            return
        if isinstance(found, Granted):
            assert all(0 < found.amounts[name] <= before[name] for name in wants)
        lasts = TERM / US - (self.now - sent)
        self.at(
            self.link(), partial(self.hear, router, session, wants, found, self.now + lasts - 0.03)
        )

    def recall(self, found: Recall, again: Callable[[], None]) -> None:
        number = next(self.turn)
        missing = {name for names in found.routers.values() for name in names}
        self.recalls[number] = (missing, again)
        for router in self.routers:
            for pot, names in found.routers.items():
                if router.name in names:
                    self.at(self.rng.uniform(0.002, 0.4), partial(self.give, router, pot, number))
        self.at((found.until - self.us) / US, partial(self.resume, number))

    def give(self, router: Router, pot: str, number: int) -> None:
        if router.linked:
            amount = router.wallet.give_back(pot)
            self.at(self.link(), partial(self.take, router, router.session, pot, amount, number))

    def take(self, router: Router, session: int, pot: str, amount: int, number: int) -> None:
        if router.session == session:
            self.pots = leases.give_back(self.pots, router.name, pot, amount)
        self.tell()
        if number in self.recalls:
            self.recalls[number][0].discard(router.name)
            if not self.recalls[number][0]:
                self.resume(number)

    def resume(self, number: int) -> None:
        if number in self.recalls:
            self.recalls.pop(number)[1]()

    def hear(
        self, router: Router, session: int, wants: dict[str, Want], found: Granted | Refused, ends: float
    ) -> None:  # fmt: skip
        if router.session != session:
            return
        for name in wants:
            if isinstance(found, Granted):
                router.wallet.granted(name, found.amounts[name], ends)
            elif name in found.free:
                router.wallet.refused(name, found.free[name], self.now)
            else:
                router.wallet.unanswered(name)
        waiting, router.waiting = router.waiting, []
        if waiting:
            last = router.wallet.squeeze if isinstance(found, Refused) else router.wallet.reserve
            first = last(self.names, waiting[0].quote, self.now)
            if not isinstance(first, Reservation):  # it was asked for it: it takes what there is
                first = router.wallet.squeeze(self.names, waiting[0].quote, self.now)
            if isinstance(first, Reservation):
                self.admit(router, waiting[0], first)
            else:
                router.refused += 1
        for asked in waiting[1:]:
            self.arrive(router, asked)

    # Leases and lives

    def renew(self, router: Router) -> None:
        self.at(10, partial(self.renew, router))
        if router.linked:
            self.pots, ends = leases.renew(self.pots, router.name, self.us)
            until = {name: self.now + end / US - self.us / US for name, end in ends.items()}
            router.wallet.renewed(self.names, until, self.now)

    def expire(self) -> None:
        """Once a second: what is lost, at billing; what is left of pots that are over, at routers."""
        self.at(1, self.expire)
        for router in self.routers:
            router.wallet.sweep(self.now)
            if router.linked:
                for pot, amount in router.wallet.leftovers(self.now).items():
                    part = partial(self.take, router, router.session, pot, amount, -1)
                    self.at(self.link(), part)
        self.pots, back = leases.expire(self.pots, self.us)
        self.back += back
        self.tell()

    def kill(self, router: Router) -> None:
        self.cut(router)
        router.up = False
        router.life += 1

    def cut(self, router: Router) -> None:
        """Nothing that billing says arrives, nor the other way; requests go on."""
        router.linked = False
        router.session += 1
        for name in self.names:
            router.wallet.unanswered(name)
        router.refused += len(router.waiting)
        router.waiting.clear()

    def mend(self, router: Router) -> None:
        """Its journal first, then what it holds; what ends meanwhile is in the next batch."""
        if router.shipping:
            self.at(0.1, partial(self.mend, router))
            return
        batch, router.journal = router.journal, []
        self.ingest(router, -1, batch, {})  # what was spent is counted anew from `kept` on
        holds = router.wallet.holds()
        self.at(self.link(), partial(self.mended, router, holds))

    def mended(self, router: Router, holds: dict[str, int]) -> None:
        self.pots, kept = leases.returned(self.pots, router.name, holds, self.us)
        self.tell()
        if self.rng.random() < 0.3:  # the answer is lost: all of it once more
            self.at(1, partial(self.mend, router))
        else:
            self.at(self.link(), partial(self.keep, router, kept, self.now + TERM / US - 0.03))

    def keep(self, router: Router, kept: dict[str, int], ends: float) -> None:
        router.wallet.kept(kept, ends)
        router.linked = True
        self.ship(router)

    def come_back(self, router: Router) -> None:
        """Its journal is shipped with what its streams had counted, then it says what it holds."""
        for held, asked, at in router.running.values():
            cost = self.cost(held, asked, self.rng.random())
            self.error += max(0, cost - held.amount)
            router.journal.append(Told(cost, at, held.pots))
        router.running.clear()
        self.at(self.rng.uniform(0.1, 3), partial(self.begin, router))

    def begin(self, router: Router) -> None:
        if router.shipping:  # a batch of its former life is still on its way
            self.at(0.1, partial(self.begin, router))
            return
        batch, router.journal = router.journal, []
        self.ingest(router, -1, batch, {})
        self.pots, kept = leases.returned(self.pots, router.name, {}, self.us)
        assert kept == {}
        router.wallet = Wallet()
        router.up = router.linked = True
        self.tell()

    # What must hold

    def no_more_than_there_is(self) -> None:
        """Whatever routers hold and have not told, the credit still covers."""
        for name in self.names:
            held = sum(r.wallet.holds().get(name, 0) for r in self.routers)
            assert held <= self.pots[name].balance + self.error, plain(self.pots[name].balance)

    def drain(self) -> None:
        """Let all running requests end, then ask for less and less until there is nothing."""
        self.run(60)
        for tokens in (500, 50, 1):
            said = quote(
                RATES, prompt_tokens(b"x" * 100), choices=1, max_tokens=tokens, longest=LONGEST
            )
            in_vain = 0
            while in_vain < 12:
                before = sum(router.admitted for router in self.routers)
                for router in self.routers:
                    self.at(0, partial(self.arrive, router, Asked(said, 1, 30, tokens, 0.01)))
                self.run(0.5)
                in_vain += 1
                if sum(router.admitted for router in self.routers) > before:
                    in_vain = 0
        self.run(30)


class PurseRun(Run):
    """The credit is a purse of grants. One ends in the middle of it, another comes late."""

    def __init__(self, seed: int, *grants: Grant) -> None:
        super().__init__(seed, pots=())
        self.purse = Purse("USD")
        for one in grants:
            self.purse, _ = credit.issue(self.purse, one, self.us)
        self.names = (self.name(),)
        self.refresh()

    def name(self) -> str:
        return credit.pot(self.purse, "acme", self.us)

    def burn(self, told: Told) -> None:
        found = credit.burn(self.purse, told.cost, told.at)
        self.purse = credit.apply(self.purse, found.entries)

    def tell(self) -> None:
        self.refresh()
        super().tell()

    def refresh(self) -> None:
        """What is in the purse, less what is still lent of pots that are over."""
        self.names = (self.name(),)
        older = sum(pot.outstanding for name, pot in self.pots.items() if name not in self.names)
        left = credit.balance(self.purse, self.us) - older
        self.pots = leases.put(self.pots, self.name(), left, credit.term(self.purse, self.us)[1])

    def expire(self) -> None:
        """A grant's rest is moved when nothing that began before its end can come any more."""
        super().expire()
        late = self.us - BLOCKED - TERM
        self.purse = credit.apply(self.purse, credit.expire(self.purse, late))


SEEDS = range(12)


def closed(run: Run) -> None:
    """At the end: nothing overdrawn but for prompts, nothing stranded."""
    for name in run.names:
        balance = run.pots[name].balance
        assert balance >= -run.error, plain(balance)
        assert run.error < CREDIT // 100
    last = min((run.pots[name] for name in run.names), key=lambda pot: pot.balance)
    assert last.balance < SMALLEST.worst
    assert last.outstanding < SMALLEST.worst
    assert all(router.refused for router in run.routers)


@pytest.mark.parametrize("seed", SEEDS)
def test_all_of_the_credit_is_used_and_no_more(seed: int) -> None:
    run = Run(seed)
    run.load(60, 20)
    run.run(60)
    run.drain()
    closed(run)
    admitted = sum(router.admitted for router in run.routers)
    run.load(20, 20)
    run.run(60)
    assert sum(router.admitted for router in run.routers) == admitted


@pytest.mark.parametrize("seed", range(5))
def test_a_discount_that_routers_do_not_know_strands_nothing(seed: int) -> None:
    run = Run(seed, billed=90)
    run.load(80, 20)
    run.run(80)
    run.drain()
    closed(run)


@pytest.mark.parametrize("seed", range(5))
def test_two_pots_are_drawn_on_together(seed: int) -> None:
    run = Run(seed, pots=("credit", "budget"))
    run.pots = leases.move(run.pots, "budget", -CREDIT // 2)
    run.load(60, 20)
    run.run(60)
    run.drain()
    closed(run)
    assert run.pots["credit"].balance - run.pots["budget"].balance == CREDIT // 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_router_dies_and_comes_back(seed: int) -> None:
    run = Run(seed)
    run.load(60, 20)
    run.run(3)
    lost = run.routers[seed % 4]
    run.kill(lost)
    assert run.pots["credit"].leases[lost.name].outstanding > 0
    run.at(run.rng.uniform(5, 120), partial(run.come_back, lost))
    run.run(150)
    assert lost.up
    run.drain()
    closed(run)
    assert run.back == []


@pytest.mark.parametrize("seed", SEEDS)
def test_a_grant_ends_while_it_is_lent(seed: int) -> None:
    """Nothing of it is spent after its end, nothing of the others before it, and nobody owes."""
    end = 1008 * US
    first = Grant("first", CREDIT, "USD", 0, 0, end, 0)
    second = Grant("second", CREDIT // 3, "USD", 0, 0, None, 0)
    run = PurseRun(seed, first, second)
    run.at(8, run.tell)
    run.load(60, 10)
    run.run(60)
    run.drain()
    owed = -run.purse.of("overdraft")
    assert owed <= run.error < CREDIT // 100
    assert run.purse.of("grant", "second") < SMALLEST.worst
    run.run((BLOCKED + TERM) / US)
    burned, gone = run.purse.of("revenue", "first"), run.purse.of("expired", "first")
    assert burned + gone == CREDIT
    assert gone > CREDIT // 10
    assert sum(run.purse.sums.values()) == 0
    run.purse, _ = credit.issue(
        run.purse, Grant("third", CREDIT // 10, "USD", 0, 0, None, 1), run.us
    )
    run.tell()
    assert run.pots[run.name()].balance == CREDIT // 10 - owed + run.purse.of("grant", "second")
    run.load(20, 10)
    run.run(20)
    run.drain()
    assert run.purse.of("grant", "third") < SMALLEST.worst
    assert -run.purse.of("overdraft") <= run.error


@pytest.mark.parametrize("seed", SEEDS)
def test_a_router_is_cut_off_and_comes_back(seed: int) -> None:
    run = Run(seed)
    run.load(80, 15)
    run.run(3)
    lost = run.routers[seed % 4]
    run.cut(lost)
    run.run(31)
    admitted = lost.admitted
    run.run(run.rng.choice([1, 10, 60, 700]))
    assert lost.admitted == admitted  # its lease had ended
    run.mend(lost)
    run.run(60)
    assert lost.linked
    run.load(60, 5)
    run.run(60)
    run.drain()
    closed(run)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_router_dies_for_good_and_its_lease_comes_back(seed: int) -> None:
    run = Run(seed)
    run.load(60, 20)
    run.run(3)
    lost = run.routers[seed % 4]
    run.kill(lost)
    run.run(100)
    held = run.pots["credit"].leases[lost.name].outstanding
    assert held > 0
    assert run.pots["credit"].balance >= held - run.error  # kept for it, whatever the others do
    run.run((TERM + BLOCKED) / US)
    assert run.back == [("credit", lost.name, held)]
    run.routers.remove(lost)
    run.load(60, 5)
    run.run(60)
    run.drain()
    closed(run)
