"""The request boundary: the one place of this process that catches whatever it did not expect.

A fault of ours in one request must end that request, with its engine stopped, its attempt settled
and its client told, and nothing else. Every way into a request's code from the event loop goes
through here; what `fail` does is the owner's.
"""

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar


class Owner(Protocol):
    """Whoever can end what failed."""

    def fail(self, *args: object) -> None:
        """End it; `args` are the failed call's."""


P = ParamSpec("P")
O = TypeVar("O", bound=Owner)  # noqa: E741 - the owner's type, beside P


def bounded(method: Callable[Concatenate[O, P], None]) -> Callable[Concatenate[O, P], None]:
    """Make a method an entry to a request: an unexpected exception ends in `fail`."""

    @functools.wraps(method)
    def entry(owner: O, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(owner, *args, **kwargs)
        except Exception:  # noqa: BLE001 - the request boundary
            owner.fail(*args)

    return entry
