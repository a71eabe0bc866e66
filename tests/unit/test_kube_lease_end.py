"""The end of a term: the Lease is given back, also where our own last renewal comes in between."""

import asyncio
import contextlib
from typing import Any, cast

from tidegate_operator.kube.api import Api, ApiError
from tidegate_operator.kube.lease import Election


class Server:
    """Keeps one Lease. The write that is cancelled is carried out when the next one comes."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] = {"metadata": {"resourceVersion": "1"}, "spec": {}}
        self.stuck: dict[str, Any] | None = None
        self.hang = False
        self.hanging = asyncio.Event()

    async def get(self, _path: str) -> dict[str, Any]:
        return {"metadata": {**self.lease["metadata"]}, "spec": {**self.lease["spec"]}}

    async def replace(self, _path: str, lease: dict[str, Any]) -> None:
        if self.hang:
            self.hang, self.stuck = False, lease
            self.hanging.set()
            await asyncio.Event().wait()
        if self.stuck is not None:
            self._write(self.stuck)
            self.stuck = None
        if lease["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "somebody wrote it meanwhile")
        self._write(lease)

    def _write(self, lease: dict[str, Any]) -> None:
        version = str(int(self.lease["metadata"]["resourceVersion"]) + 1)
        self.lease = {"metadata": {"resourceVersion": version}, "spec": lease["spec"]}


async def test_a_renewal_under_way_does_not_keep_the_lease_from_the_next_one() -> None:
    server = Server()
    leading = asyncio.Event()
    election = Election(cast("Api", server), "system", "op-1", lambda now: now and leading.set())
    term = asyncio.create_task(election.run())
    await leading.wait()
    assert server.lease["spec"]["holderIdentity"] == "op-1"
    server.hang = True
    await server.hanging.wait()
    term.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await term
    assert server.lease["spec"]["holderIdentity"] == "", "given back"
