"""The cluster that these tests run on: the caller's, or one of our own for this session."""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from harness import cluster as clusters
from harness import installed
from harness.installed import Platform
from harness.layout import Cluster

ORDER = {"test_harness.py": -1, "test_docs.py": 1, "test_rbac.py": 2, "test_postgresql.py": 3}
"""Files that do not run in the order of their names. The harness's own test loses nodes, and with them
the pods of a platform that is installed later; the documentation's commands begin where that platform
is gone again; what was granted and never used is known at the end. All others: 0."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put this folder's files into their order; other folders' come before, as they were.

    Where tests run on several workers, all of these run on one: there is one cluster."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here:
            item.add_marker(pytest.mark.xdist_group("cluster"))
    items.sort(key=lambda one: ORDER.get(one.path.name, 0) if one.path.parent == here else -2)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster: KUBECONFIG's, untouched, where TEST_IMAGE is given too; else a fresh one of ours.

    Without root there can be none: skipped outside CI, failed in it.
    """
    kubeconfig, image = os.environ.get("KUBECONFIG"), os.environ.get("TEST_IMAGE")
    if kubeconfig and image:
        yield clusters.outside(kubeconfig)
        return
    if os.geteuid() != 0:
        why = "a cluster of our own needs root; or give KUBECONFIG and TEST_IMAGE"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    with clusters.held() as own:
        yield own


@pytest.fixture(scope="session")
def own_cluster(cluster: Cluster) -> Cluster:
    """The same, for tests that look at its machine: nodes, audit log. Skipped on another's."""
    if cluster.folder is None:
        pytest.skip("only a cluster that was brought up here shows its machine")
    return cluster


@pytest.fixture(scope="session")
def engine(cluster: Cluster) -> Iterator[Future[None]]:
    """The CPU engine's image on its way to a node, beside the tests that do without it."""
    archive = installed.build_engine()
    with ThreadPoolExecutor(1) as beside:
        yield beside.submit(installed.load_engine, cluster, archive)


@pytest.fixture(scope="session")
def tidegate(cluster: Cluster, engine: Future[None]) -> Iterator[Platform]:
    """Tidegate, installed by its chart with the shipped image."""
    names = installed.load_images(cluster)
    installed.install(cluster, names)
    with installed.platform(cluster) as running:
        yield running
