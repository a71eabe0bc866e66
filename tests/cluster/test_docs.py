"""The commands of docs/cluster.md, run as they stand: install, apply, ask, watch, remove.

They begin on a cluster without Tidegate, so this comes late: it first takes the suite's installation
away, which shows what an uninstallation leaves.
"""

import re
import subprocess
from pathlib import Path

import pytest
from harness import installed
from harness.installed import ROOT, SYSTEM, Platform, model
from harness.kubectl import apply, environment, get, items, kubectl, wait_for
from harness.layout import Cluster

from tidegate_runtime.contract import definitions

BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[str]:
    return BLOCK.findall((ROOT / "docs" / "cluster.md").read_text())


def test_uninstall_leaves_resources_and_data(tidegate: Platform, own_cluster: Cluster) -> None:
    installed.namespace(own_cluster, "stays")
    apply(own_cluster, model("stays", "stays"))
    tidegate.phase("stays", "stays", "Idle")
    assert tidegate.ask("stays", "stays").status_code == 200
    before = {event["event_id"] for event in tidegate.events(tenant="stays")}
    assert before
    installed.uninstall(own_cluster)
    assert tidegate.mdep("stays", "stays")
    claims = {claim["metadata"]["name"] for claim in items(own_cluster, "pvc", SYSTEM)}
    assert {"tidegate-billing", "data-tidegate-router-0"} <= claims
    installed.install(own_cluster, installed.load_images(own_cluster))
    with installed.platform(own_cluster) as again:
        assert before <= {event["event_id"] for event in again.events(tenant="stays")}
        again.phase("stays", "stays", "Idle", "Ready")
        assert again.ask("stays", "stays").status_code == 200
    kubectl(own_cluster, "delete", "namespace", "stays")
    installed.uninstall(own_cluster)


@pytest.fixture
def bare(own_cluster: Cluster) -> Cluster:
    """The cluster with nothing of ours on it."""
    if get(own_cluster, "namespace", SYSTEM) is not None:
        kubectl(own_cluster, "delete", "namespace", SYSTEM)
    kubectl(own_cluster, "delete", "namespace", "team-a", "--ignore-not-found")
    for made in definitions.crds():
        kubectl(own_cluster, "delete", "crd", made["metadata"]["name"], "--ignore-not-found")
    return own_cluster


def test_every_block_runs(bare: Cluster, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "kubectl").symlink_to(bare.kubectl)
    (tools / "helm").symlink_to(bare.helm)
    env = environment(bare)
    env["PATH"] = f"{tools}:{env['PATH']}"
    script = "set -euxo pipefail\ntrap 'kill $(jobs -p)' EXIT\n" + "\n".join(blocks())
    done = subprocess.run(
        ["bash", "-c", script], cwd=ROOT, env=env, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert '" t0 t1 t2 t3 t4"' in done.stdout
    assert "and they are billed" in done.stdout
    wait_for(lambda: get(bare, "namespace", SYSTEM) is None, "nothing is left")
