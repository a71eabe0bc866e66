"""The chart with PostgreSQL: a real server on the node, the migration's Job, a bill from it.

Runs after everything else: a platform installed on the trial's ledger is gone by then, or is moved
to this one as it is.
"""

import base64
from collections.abc import Iterator

import httpx
import pytest
from harness import installed
from harness.installed import SYSTEM, Platform, model
from harness.kubectl import apply, get, items, wait_for
from harness.layout import GATEWAY, NETWORK, Cluster

from postgres import Server

SPACE = "team-pg"
SECRET = "ledger-database"


@pytest.fixture(scope="module")
def server(own_cluster: Cluster) -> Iterator[Server]:
    """PostgreSQL on the machine that the nodes are on, as pods reach it."""
    made = Server(durable=True, host=GATEWAY, network=NETWORK)
    try:
        made.start()
        made.create("ledger")
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def moved(own_cluster: Cluster, server: Server) -> Platform:
    """The platform, installed anew on that database: its Secret is there before the chart."""
    cluster = own_cluster
    wait_for(lambda: _namespace_is_settled(cluster), "the old namespace is gone or in use", 300)
    if get(cluster, "namespace", SYSTEM) is None:
        installed.namespace(cluster, SYSTEM)
    url = base64.b64encode(server.url("ledger").encode()).decode()
    apply(
        cluster,
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": SECRET, "namespace": SYSTEM},
            "data": {"url": url},
        },
    )
    installed.install(
        cluster,
        installed.load_images(cluster),
        *("--set", "billing.persistence.enabled=false"),
        *("--set", f"billing.database.existingSecret={SECRET}"),
        *("--set", f"networkPolicy.databasePorts={{{server.port}}}"),
    )
    installed.namespace(cluster, SPACE)
    with installed.platform(cluster) as running:
        return running


def _namespace_is_settled(cluster: Cluster) -> bool:
    found = get(cluster, "namespace", SYSTEM)
    return found is None or "deletionTimestamp" not in found["metadata"]


def test_the_hook_has_migrated_it_before_billing_came(moved: Platform, server: Server) -> None:
    assert server.sql("ledger", "SELECT count(*) FROM alembic_version") == "1"
    partitioned = "SELECT partstrat FROM pg_partitioned_table WHERE partrelid = 'event'::regclass"
    assert server.sql("ledger", partitioned) == "l"
    assert get(moved.cluster, "job", "tidegate-migrate", SYSTEM) is None  # it succeeded, and went
    (pod,) = items(moved.cluster, "pods", SYSTEM, "app.kubernetes.io/component=billing")
    logs = moved.kubectl("-n", SYSTEM, "logs", pod["metadata"]["name"])
    assert '"event": "serving"' in logs


def test_usage_is_billed_from_it_and_the_database_may_go_and_come(
    moved: Platform, server: Server
) -> None:
    apply(moved.cluster, model("pg", SPACE))
    moved.phase("pg", SPACE, "Idle", "Ready")
    # A key is known to the routers that are connected, and they have yet to find the new process.
    answer = wait_for(lambda: _answered(moved), "routers know keys of the new ledger", 60)
    request = answer.headers["x-request-id"]
    (event,) = wait_for(lambda: moved.events(request_id=request), "the settlement")
    assert (event["prompt_tokens"], event["completion_tokens"]) == (3, 7)
    assert event["amount_exact"] == "0.0000031"  # 3 x 0.1 + 7 x 0.4 per million
    kept = f"SELECT count(*) FROM event WHERE request_id = '{request}' AND kind = 'settlement'"
    assert server.sql("ledger", kept) == "1"
    server.kill()
    away = moved.ask(SPACE, "pg", 5)
    assert away.status_code == 200, away.text  # the router's journal keeps it meanwhile
    server.start()
    later = away.headers["x-request-id"]
    (second,) = wait_for(lambda: moved.events(request_id=later), "the late settlement", 60)
    assert second["completion_tokens"] == 5
    moved.closes()


def _answered(moved: Platform) -> httpx.Response | None:
    """The answer, once the key is known."""
    answer = moved.ask(SPACE, "pg", 7)
    if answer.status_code in {401, 503}:
        return None
    assert answer.status_code == 200, answer.text
    return answer
