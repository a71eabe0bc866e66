"""Whether an engine is replaced because it hangs, from what routers say of it."""

from collections.abc import Mapping

from tidegate_runtime.contract.links import DemandLine


def hangs(replica_id: str, lines: Mapping[str, DemandLine | None]) -> str:
    """Why the replica is to be replaced; empty where it is not. A router that takes an engine to hang
    drops its requests there. One that says nothing of it and has requests there may be getting answers,
    and the first one only trouble of its own network: such a replica stays until both agree."""
    told = [
        said
        for line in lines.values()
        for said in (line.replicas if line is not None else ())
        if said.id == replica_id
    ]
    if any(said.in_flight and not said.hung for said in told):
        return ""
    return next((said.hung for said in told if said.hung), "")
