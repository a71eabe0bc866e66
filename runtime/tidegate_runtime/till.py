"""The till: who is let in reserves first, and what is missing is asked of billing (ADR 13).

Requests of tenants without pots pass by. The others reserve from leases in this process; where those
don't cover one, it waits here, before any queue of a model, for billing's answer. The wallet
decides; here are the questions, and who waits for them.

While there is no session with billing (`session`), nothing is asked, and leases that we have go on; the next
usage batch says what we hold as of its last record.
"""

import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final

import httpx
import structlog

from tidegate_billing import money
from tidegate_billing.lending.said import (
    LeaseAnswer,
    LeaseAsk,
    LeaseBack,
    LeaseKept,
    LeaseRenewal,
    LeaseTerms,
    LeaseWord,
    PotView,
)
from tidegate_billing.usage import Usage
from tidegate_runtime import openai, pooling, refusals
from tidegate_runtime.draw import CONTEXT, Draw
from tidegate_runtime.errors import Refusal
from tidegate_runtime.purview import amounts
from tidegate_runtime.session import Session
from tidegate_runtime.waiters import Waiters
from tidegate_runtime.wallet import (
    Empty,
    NeedMore,
    Rates,
    Reservation,
    Wallet,
    price,
    prompt_tokens,
    quote,
)

if TYPE_CHECKING:
    from tidegate_runtime.exchange import Exchange
    from tidegate_runtime.gate import Gate

log = structlog.get_logger()

WAIT_SECONDS: Final = 3.0
"""How long a request waits to learn whether it can be paid for."""
RENEW_SECONDS: Final = 10.0
MOST_ASKED: Final = 10**12 * money.ATTO - 1
"""More than any pot holds, and as much as billing takes for an amount."""


class Till:
    """One router's leases."""

    def __init__(self, gate: "Gate", client: httpx.AsyncClient, url: str) -> None:
        self.gate = gate
        self.wallet = Wallet()
        self.session = Session(client, url, gate.meter.hurry)
        self.questions = 0
        self._waiters = Waiters()
        self._renewed_at = 0.0

    # Requests

    def admit(self, exchange: "Exchange") -> bool:
        """Whether a request may go on now; else it waits here, or was refused."""
        purview = self.gate.tenants.purview
        if not purview.limited(exchange.key.tenant):
            return True
        offer = purview.offer(exchange.key.tenant, exchange.model.view.deployment)
        if offer is None:
            exchange.refuse(refusals.unknown_credit("The model's price"))
            return False
        pots = purview.covering(exchange.key, offer.currency, int(time.time() * 1e6))
        if pots is None:
            exchange.refuse(refusals.no_credit(offer.currency))
            return False
        if not pots:
            return True
        exchange.draw = draw = self._draw(exchange, pots, offer.rates)
        if not self._waiters.before(pots):
            found = self.wallet.reserve(pots, draw.quote, draw.since)
            if not isinstance(found, NeedMore):
                return self._answered(exchange, found)
            self._waiters.add(exchange)
            self._pump()
        elif self._waiters.full(exchange.key.tenant):
            exchange.refuse(refusals.unknown_credit("The credit"))
        else:  # whoever is before him has asked
            self._waiters.add(exchange)
        return False

    def _draw(self, exchange: "Exchange", pots: tuple[str, ...], rates: Rates) -> Draw:
        request = exchange.request
        task, extra = exchange.model.view.task, 0
        if request.pooled is not None:
            extra = pooling.extra_tokens(request.pooled, task)
        prompt = prompt_tokens(exchange.body, extra)
        asked = request.max_tokens
        if request.endpoint == openai.COMPLETIONS and asked is None:
            asked = openai.COMPLETION_TOKENS
        draw = Draw(pots, rates, prompt, asked, self.gate.loop.time())
        longest = exchange.model.context or CONTEXT
        draw.quote = quote(
            rates,
            prompt,
            choices=request.choices * request.prompts,
            max_tokens=None if asked is None else max(1, asked),  # 0 makes one, where it is taken
            longest=longest if task == "generate" else 0,
        )
        return draw

    def _answered(self, exchange: "Exchange", found: Reservation | Empty) -> bool:
        if isinstance(found, Empty):
            exchange.refuse(refusals.exhausted(found.pot))
            return False
        assert exchange.draw is not None
        exchange.draw.held = found
        if self.wallet.low:
            self._ahead()
        return True

    def settle(self, draw: Draw, settled: Usage) -> None:
        """A request's answer is on record; in the same step, so that what is said of leases and what is
        said of usage are of one moment."""
        if draw.held is not None:
            cost = 0
            if settled.billed:
                cost = price(draw.rates, settled.prompt_tokens, settled.completion_tokens)
            self.wallet.settle(draw.held, cost)

    def release(self, draw: Draw) -> None:
        """A request is over; what it has not spent it never will."""
        if draw.held is not None:
            self.wallet.release(draw.held)

    @property
    def waiting(self) -> int:
        """Requests that wait to learn whether they can be paid for."""
        return len(self._waiters)

    # Those who wait

    def _pump(self) -> None:
        """Let in whom the leases cover, in their order, and ask for what is missing."""
        missing: dict[tuple[str, ...], list[Exchange]] = {}
        blocked: set[str] = set()
        leave: list[tuple[Exchange, Reservation | Empty | None]] = []
        now = self.gate.loop.time()
        for exchange in self._waiters:
            draw = exchange.draw
            assert draw is not None
            if exchange.ended or not self.gate.tenants.purview.limited(exchange.key.tenant):
                leave.append((exchange, None))
                continue
            found: Reservation | NeedMore | Empty = NeedMore({})
            if blocked.isdisjoint(draw.pots):  # nobody passes those who were before him
                found = self.wallet.reserve(draw.pots, draw.quote, now)
            if isinstance(found, NeedMore):
                blocked.update(draw.pots)
                missing.setdefault(draw.pots, []).append(exchange)
            else:
                leave.append((exchange, found))
        self._leave(leave)
        if not missing:
            return
        if not self.session.number:
            self.gate.meter.hurry()
            return
        for pots, group in missing.items():
            self._ask_for(pots, group)

    def _leave(self, those: "list[tuple[Exchange, Reservation | Empty | None]]") -> None:
        """They wait no longer: they go on, or were refused. None: nothing bounds them any more."""
        self._waiters.drop(exchange for exchange, _ in those)
        for exchange, found in those:
            if exchange.ended:
                continue
            if found is None:
                exchange.draw = None
                self.gate.place(exchange)
            elif self._answered(exchange, found):
                self.gate.place(exchange)

    def _ask_for(self, pots: tuple[str, ...], group: list["Exchange"]) -> None:
        """Ask what a group lacks in sum; its first member says what is the least."""
        draws = [one.draw for one in group if one.draw is not None]
        now = self.gate.loop.time()
        need = sum(draw.quote.need for draw in draws)
        least = draws[0].quote.least
        wants = {}
        for pot in pots:
            left = self.wallet.unused(pot, now)
            if left < need:
                wants[pot] = (min(need - left, MOST_ASKED), min(max(0, least - left), MOST_ASKED))
        if wants and self.wallet.ask(wants, now):
            self.session.start(self._question(wants, group))

    def _ahead(self) -> None:
        """Ask for leases that run low before anybody has to wait."""
        low, self.wallet.low = self.wallet.low, {}
        if not self.session.number:
            return
        for pot, need in low.items():
            if self.wallet.ask([pot], self.gate.loop.time()):
                self.session.start(self._question({pot: (need, 0)}, []))

    async def _question(
        self, wants: Mapping[str, tuple[int, int]], group: list["Exchange"]
    ) -> None:
        asked_at = self.gate.loop.time()
        said = LeaseAsk(
            router=self.gate.name,
            session=self.session.number,
            wants={pot: (money.plain(need), money.plain(least)) for pot, (need, least) in wants.items()},
            ahead=not group,
        )  # fmt: skip
        self.questions += 1
        answer = await self.session.call("ask", said, LeaseAnswer)
        now = self.gate.loop.time()
        if answer is None:
            for pot in wants:
                self.wallet.unanswered(pot)
            return
        free, granted = amounts(answer.refused), amounts(answer.granted)
        for pot, amount in granted.items():
            self.wallet.granted(pot, amount, asked_at + answer.ends_in[pot] / 1e6)
        for pot in wants.keys() - granted.keys():
            if pot not in free:
                self.wallet.unanswered(pot)
            elif group:
                self.wallet.refused(pot, free[pot], now)
            else:
                self.wallet.declined(pot, now)
        if any(granted.get(pot, need) < need for pot, (need, _) in wants.items()):
            self._squeeze(group)
        self._pump()

    def _squeeze(self, group: list["Exchange"]) -> None:
        """Billing has lent all that there is: each gets what it leaves to him, in their order."""
        leave: list[tuple[Exchange, Reservation | Empty | None]] = []
        now = self.gate.loop.time()
        for exchange in group:
            draw = exchange.draw
            if exchange.ended or draw is None or not draw.waits:
                continue
            found = self.wallet.reserve(draw.pots, draw.quote, now)
            if isinstance(found, NeedMore):
                found = self.wallet.squeeze(draw.pots, draw.quote, now)
            if isinstance(found, Empty):
                break  # the next question says whether there is nothing at all
            leave.append((exchange, found))
        self._leave(leave)

    # What goes with a usage batch

    @property
    def due(self) -> bool:
        """Whether the next batch is to say what we hold."""
        return self.session.due and self.gate.tenants.purview.limits

    def word(self, *, whole: bool) -> LeaseWord | None:
        """What a batch says of leases that is cut now; `whole`: nothing is in the journal after it."""
        if not whole:
            return None
        name = self.gate.name
        if self.due:
            holds = {pot: money.plain(held) for pot, held in self.wallet.holds().items()}
            return LeaseWord(router=name, session=self.session.begin(), holds=holds)
        if not self.session.number:
            return None
        spent = {pot: money.plain(amount) for pot, amount in self.wallet.spent().items()}
        return LeaseWord(router=name, session=self.session.number, spent=spent) if spent else None

    def heard(self, kept: LeaseKept | None, said_at: float) -> None:
        """Billing has the batch that was cut at `said_at`."""
        if not self.session.beginning:
            return
        lasts = 0.0 if kept is None else kept.ends_in / 1e6
        self.wallet.kept({} if kept is None else amounts(kept.kept), said_at + lasts)
        self._renewed_at = said_at
        self.session.answered(known=kept is not None)
        self._pump()

    # The picture

    def told(self, pots: Iterable[PotView]) -> None:
        """Pots have changed: some are empty, some filled."""
        now = self.gate.loop.time()
        for pot in pots:
            if pot.empty:
                self.wallet.emptied(pot.name, now)
            else:
                self.wallet.filled(pot.name)
        if self.due:
            self.gate.meter.hurry()
        self._pump()

    def recall(self, pots: Iterable[str]) -> None:
        """Others need what we hold and don't use."""
        if self.session.number:
            self._give({pot: self.wallet.give_back(pot) for pot in pots})

    def _give(self, unused: Mapping[str, int]) -> None:
        back = {pot: money.plain(amount) for pot, amount in unused.items()}
        said = LeaseBack(router=self.gate.name, session=self.session.number, back=back)
        self.session.start(self._tell_back(said))

    async def _tell_back(self, said: LeaseBack) -> None:
        await self.session.call("back", said, type(None))

    # Time

    def sweep(self) -> None:
        """Once a second: who waited too long, what is over, what must be prolonged."""
        now = self.gate.loop.time()
        late = [
            exchange
            for exchange in self._waiters
            if exchange.draw is not None and now - exchange.draw.since > WAIT_SECONDS
        ]
        self._refuse(late, refusals.unknown_credit("The credit"))
        self.wallet.sweep(now)
        if self.due:
            self.gate.meter.hurry()
        if not self.session.number:
            return
        if over := self._over(now):
            self._give(over)
        if now - self._renewed_at >= RENEW_SECONDS:
            self._renewed_at = now
            self.session.start(self._renew())
        self._ahead()
        self._pump()

    def _over(self, now: float) -> dict[str, int]:
        """What is unused of leases that have ended, and of pots that are no more."""
        over = self.wallet.leftovers(now)
        known = set(self.gate.tenants.purview.names())
        for pot in [one for one in self.wallet.pots() if one not in known]:
            if amount := self.wallet.give_back(pot):
                over[pot] = amount + over.get(pot, 0)
        return over

    async def _renew(self) -> None:
        asked_at = self.gate.loop.time()
        asked = self.wallet.pots()
        said = LeaseRenewal(router=self.gate.name, session=self.session.number)
        terms = await self.session.call("renew", said, LeaseTerms)
        if terms is not None:
            ends = {pot: asked_at + lasts / 1e6 for pot, lasts in terms.ends_in.items()}
            self.wallet.renewed(asked, ends, self.gate.loop.time())

    def stop(self) -> None:
        """Nobody is let in any more."""
        self._refuse(list(self._waiters), refusals.stopping())

    def _refuse(self, those: "list[Exchange]", refusal: Refusal) -> None:
        self._waiters.drop(those)
        for exchange in those:
            exchange.refuse(refusal)

    async def part(self) -> None:
        """Nothing runs any more, and the journal is told: others may have what we hold."""
        if self.session.number and (pots := self.wallet.pots()):
            self.recall(pots)
            await self.session.quiet()
