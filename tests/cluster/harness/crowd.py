"""Many models, what happens to them, and what the API server's audit log says came of it. Pure.

Of ten models four sleep and six run two to five replicas: two pods a model in the mean. Every model
has one change a minute, at a moment of its own: of a pod's status where it has pods (it is not
Ready for a moment, or its engine has started anew), else of the resource (an annotation).
"""

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple

from .audit import Event

REPLICAS: Final = (0, 2, 0, 3, 5, 0, 2, 0, 3, 5)
PER_NAMESPACE: Final = 20
RESTARTS: Final = 0.1
"""Of the changes of pods, so many are an engine that has started anew."""
MINUTE: Final = 60.0
READS: Final = frozenset({"get", "list", "watch"})
_PODS: Final = 10_000

Kind = Literal["note", "unready", "restart"]


class Change(NamedTuple):
    """One status change: `at` seconds after the phase began, on `pod` modulo the model's pods."""

    at: float
    model: int
    kind: Kind
    pod: int


def replicas(number: int) -> int:
    """How many pods a model keeps."""
    return REPLICAS[number % len(REPLICAS)]


def place(number: int) -> tuple[str, str]:
    """A model's namespace and name."""
    return f"crowd-{number // PER_NAMESPACE}", f"model-{number}"


def resource(number: int) -> dict[str, Any]:
    """A ModelDeployment."""
    namespace, name = place(number)
    keep = replicas(number)
    price = {"currency": "USD", "inputPerMillion": "0.10", "outputPerMillion": "0.40"}
    return {
        "apiVersion": "tidegate.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "model": {"uri": f"sim://{name}", "name": name},
            "engine": {"type": "sim", "args": ["--start-seconds", "1", "--ttft-ms", "20"]},
            "scaling": {"minReplicas": keep, "maxReplicas": max(4, keep)},
            "pricing": price,
        },
    }


def changes(models: int, minutes: float, seed: int) -> list[Change]:
    """One change per model and minute for so long, in their order."""
    source = random.Random(seed)
    moments = [source.uniform(0, MINUTE) for _ in range(models)]
    found = [
        Change(at, number, _kind(number, source), source.randrange(_PODS))
        for number, first in enumerate(moments)
        for at in _every_minute(first, minutes)
    ]
    return sorted(found)


def _every_minute(first: float, minutes: float) -> Iterator[float]:
    at = first
    while at < minutes * MINUTE:
        yield at
        at += MINUTE


def _kind(number: int, source: random.Random) -> Kind:
    drawn = source.random()
    if not replicas(number):
        return "note"
    return "restart" if drawn < RESTARTS else "unready"


# What the audit log tells


def asked(events: Iterable[Event], who: str, begin: float, end: float) -> Counter[tuple[str, str]]:
    """Requests of a user that were answered in a time: (verb, resource or resource/subresource)."""
    found: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.user.username == who and _counts(event) and begin <= event.at < end:
            verb, _, what = event.right
            found[verb, what] += 1
    return found


def _counts(event: Event) -> bool:
    # A watch is told twice, when it begins and when it ends, which may be in another phase.
    return event.stage == ("ResponseStarted" if event.verb == "watch" else "ResponseComplete")


def writes(found: Counter[tuple[str, str]]) -> Counter[tuple[str, str]]:
    """What of it changes objects, besides the renewals of a Lease."""
    return Counter(
        {right: n for right, n in found.items() if right[0] not in READS and right[1] != "leases"}
    )


def first_words(events: Iterable[Event], who: str) -> dict[tuple[str, str], tuple[float, float]]:
    """When each model was created, and when `who` first wrote its status: by namespace and name.

    Only models of which both are in the log."""
    created: dict[tuple[str, str], float] = {}
    told: dict[tuple[str, str], float] = {}
    for event in events:
        about, fine = event.about, 200 <= event.response_status.code < 300
        if about.resource != "modeldeployments" or not fine or not _counts(event):
            continue
        key = (about.namespace, about.name)
        if event.verb == "create":
            created.setdefault(key, event.at)
        elif about.subresource == "status" and event.user.username == who:
            told.setdefault(key, event.at)
    return {key: (at, told[key]) for key, at in created.items() if key in told}
