"""A person's own replica count: two annotations on the resource, with an end.

    tidegate.dev/replicas: "3"
    tidegate.dev/replicas-until: "2026-11-24T18:00:00Z"     without it, for an hour at a time

An override that cannot be read counts as none; the reconciler says so in the log.
"""

from collections.abc import Mapping

import structlog

from tidegate_operator.autoscale import Override
from tidegate_runtime.contract.cluster import REPLICAS, REPLICAS_UNTIL, seconds

log = structlog.get_logger()

OPEN_ENDED = 3600.0


def read(annotations: Mapping[str, str], now: float) -> Override | None:
    """The override in force, if any."""
    count, until = annotations.get(REPLICAS), annotations.get(REPLICAS_UNTIL)
    if count is None:
        return None
    try:
        end = seconds(until) if until else now + OPEN_ENDED
        replicas = int(count)
    except ValueError:
        log.warning("override_unreadable", replicas=count, until=until)
        return None
    return Override(replicas, end) if replicas >= 0 and end > now else None
