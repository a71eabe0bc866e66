"""What a person wants of a model now: awake, or asleep. A wish adds to demand and never loses any.

*Wake* counts as one waiting request until a replica answers or a new start fails; the model's idle
time begins when it answers. *Sleep* takes every replica away by a drain, so what runs finishes; it
lasts until somebody asks for the model again, and a model kept warm stays away until then, too.
"""

from typing import Literal, NamedTuple, Protocol

from tidegate_operator.autoscale import Sample
from tidegate_operator.demand import Total
from tidegate_runtime.contract.links import Failure, ModelView


class WishError(Exception):
    """A wish that cannot be granted; the message is for people."""


class Wish(NamedTuple):
    """`kind` is empty where nobody wished. `known`: the failed start that was known then."""

    kind: Literal["", "wake", "sleep"] = ""
    known: str = ""

    @property
    def awake(self) -> bool:
        """Whether somebody wants it to start."""
        return self.kind == "wake"

    @property
    def asleep(self) -> bool:
        """Whether nothing may run until it is asked for."""
        return self.kind == "sleep"

    def sample(self, seen: Sample, ready: int) -> Sample:
        """The demand as a wake adds to it: one that waits while nothing serves, then a request that
        came and went just now."""
        if not self.awake:
            return seen
        held = seen.held if ready else max(1, seen.held or 0)
        return seen._replace(held=held, last_request=seen.at)

    def after(self, *, ready: int, held: int | None, failure: Failure | None) -> "Wish":
        """The wish as it is once this was seen."""
        failed = failure is not None and failure.final and failure.start_id != self.known
        over = (ready or failed) if self.awake else self.asleep and held
        return Wish() if over else self

    def reason(self, decided: str) -> str:
        """Why there are as many replicas as decided."""
        if self.awake:
            return "woken by hand"
        return "put to sleep; the next request wakes it" if self.asleep else decided


class Wishful(Protocol):
    """A model as a wish sees it."""

    view: ModelView
    wish: Wish
    total: Total
    conflict: str

    def evaluate(self, now: float) -> None:
        """Decides on the newest demand and acts on it at once."""


def wake(model: Wishful, now: float) -> None:
    """Starts a replica as a waiting request would. Raises WishError where none may run."""
    view = model.view
    if view.suspend:
        raise WishError(f"{view.name} is suspended (spec.suspend is true)")
    if not view.valid:
        raise WishError(f"{view.name} is not valid: {model.conflict}")
    failure = view.failure
    model.wish = Wish("wake", failure.start_id if failure is not None else "")
    model.evaluate(now)


def sleep(model: Wishful, now: float) -> None:
    """Drains every replica. Raises WishError while somebody waits for the model."""
    if model.total.held:
        waiting = f"{model.total.held} requests wait" if model.total.held > 1 else "a request waits"
        raise WishError(f"{waiting} for {model.view.name}; it cannot sleep now")
    model.wish = Wish("sleep")
    model.evaluate(now)
