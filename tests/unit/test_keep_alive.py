"""Management ports keep idle connections for longer than clients do."""

from httpx._config import DEFAULT_LIMITS
from starlette.applications import Starlette

from tidegate_billing.process import KEEP_ALIVE_SECONDS
from tidegate_operator.local import ops


def test_no_client_of_ours_outlives_the_servers_patience() -> None:
    assert DEFAULT_LIMITS.keepalive_expiry is not None
    assert ops.server(Starlette()).config.timeout_keep_alive == KEEP_ALIVE_SECONDS
    assert 10 * DEFAULT_LIMITS.keepalive_expiry < KEEP_ALIVE_SECONDS
