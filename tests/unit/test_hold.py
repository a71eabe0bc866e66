"""The hold queue as a state machine against a plain model of it."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tidegate_runtime.hold import Full, HoldQueue, Ticket

TENANTS = ("a", "b", "c")
MAX_HELD = 6
SHARE = 0.5


class HoldMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.queue: HoldQueue[int] = HoldQueue()
        self.waiting: list[Ticket[int]] = []
        self.now = 1.0
        self.count = 0

    @rule(
        tenant=st.sampled_from(TENANTS),
        seconds=st.integers(0, 5),
        front=st.booleans(),
        known=st.sampled_from(["", "s1"]),
    )
    def push(self, tenant: str, seconds: int, front: bool, known: str) -> None:
        self.count += 1
        ticket = Ticket(self.count, tenant, self.now, self.now + seconds, known)
        full = self.queue.push(ticket, MAX_HELD, SHARE, front=front)
        mine = sum(t.tenant == tenant for t in self.waiting)
        if len(self.waiting) >= MAX_HELD:
            assert full == Full("model", MAX_HELD)
        elif mine >= MAX_HELD * SHARE:
            assert full == Full("tenant", 3)
        else:
            assert full is None
            self.waiting.insert(0 if front else len(self.waiting), ticket)

    @rule()
    def pop(self) -> None:
        ticket = self.queue.pop()
        if not self.waiting:
            assert ticket is None
            return
        assert ticket is not None
        first = next(t for t in self.waiting if t.tenant == ticket.tenant)
        assert ticket is first, "first come, first served within a tenant"
        self.waiting.remove(ticket)

    @rule()
    def pop_and_put_back(self) -> None:
        """A turn that led to nothing changes nothing: the same ticket is next."""
        ticket = self.queue.pop()
        if ticket is not None:
            self.queue.put_back(ticket)
            assert self.queue.pop() is ticket
            self.queue.put_back(ticket)

    @rule(tenant=st.sampled_from(TENANTS))
    def displace(self, tenant: str) -> None:
        lines = {t: [x for x in self.waiting if x.tenant == t] for t in TENANTS}
        longest = max(len(line) for line in lines.values())
        victim = self.queue.displace(tenant)
        if longest <= len(lines[tenant]) + 1:
            assert victim is None
        else:
            assert victim is not None
            assert len(lines[victim.tenant]) == longest
            assert victim is lines[victim.tenant][-1]
            self.waiting.remove(victim)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.waiting))
        self.queue.remove(ticket)
        self.queue.remove(ticket)
        self.waiting.remove(ticket)

    @rule(seconds=st.integers(0, 3))
    def pass_time(self, seconds: int) -> None:
        self.now += seconds
        gone = self.queue.expire(self.now)
        assert {t.item for t in gone} == {t.item for t in self.waiting if t.deadline <= self.now}
        self.waiting = [t for t in self.waiting if t.deadline > self.now]

    @rule()
    def start_fails(self) -> None:
        gone = self.queue.release("s1")
        assert all(t.known_failure != "s1" for t in gone)
        self.waiting = [t for t in self.waiting if t.known_failure == "s1"]

    @invariant()
    def agrees(self) -> None:
        assert len(self.queue) == len(self.waiting)
        assert {t.item for t in self.queue} == {t.item for t in self.waiting}
        assert self.queue.oldest() == min((t.since for t in self.waiting), default=0.0)


HoldMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestHold = HoldMachine.TestCase


def test_tenants_take_turns() -> None:
    queue: HoldQueue[str] = HoldQueue()
    for i in range(5):
        queue.push(Ticket(f"a{i}", "a", 0, 9, ""), 100, 1.0)
    queue.push(Ticket("b0", "b", 0, 9, ""), 100, 1.0)
    order = [t.item for _ in range(6) if (t := queue.pop())]
    assert order == ["a0", "b0", "a1", "a2", "a3", "a4"]


def test_clients_that_come_and_go_leave_nothing() -> None:
    queue: HoldQueue[int] = HoldQueue()
    stays = Ticket(0, "a", 0, 9, "")
    queue.push(stays, 10, 1.0)
    for i in range(1000):
        ticket = Ticket(i, "a", 0, 9, "")
        queue.push(ticket, 10, 1.0)
        queue.remove(ticket)
    assert len(queue._lines["a"]) < 50
    assert queue.pop() is stays
