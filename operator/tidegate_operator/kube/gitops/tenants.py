"""A Tenant: what it says goes to billing, and its keys come back into Secrets.

A key's plaintext is in billing's answer and nowhere else until it is in its Secret. So the order is:
read which keys have arrived, try whether a Secret that is missing could be made, ask billing, write.
Whatever breaks off in between is mended by the next round, which reads again what has arrived:
billing revokes what has not and makes another (`who.managed_keys`).

A Secret is made by a creation, which fails where somebody else's is, and changed as it was read, so
neither a stranger's Secret nor the work of a later leader is ever overwritten.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from tidegate_billing.links import DesiredKey, DesiredTenant, SettledKey, SettledTenant
from tidegate_operator.kube.api import MERGE, Api, ApiError
from tidegate_operator.kube.gitops import secrets
from tidegate_operator.kube.gitops.ledger import Ledger, Refused
from tidegate_operator.kube.gitops.secrets import Place
from tidegate_operator.kube.gitops.told import Told
from tidegate_runtime.contract.cluster import FIELD_MANAGER

Object = Mapping[str, Any]
Found = dict[tuple[str, str], Object]

SECRETS: Final = "/api/v1/secrets"
_TRIAL: Final = (("fieldManager", FIELD_MANAGER), ("dryRun", "All"))


class Entry(NamedTuple):
    """A key of a spec, where it goes, and what stands in its way there."""

    spec: Object
    where: Place
    secret: Object | None
    trouble: str

    @property
    def delivered(self) -> str:
        """The key that has arrived."""
        return secrets.delivered(self.secret, self.spec["name"], self.where.field)


class Tenants:
    """Tenants and their Secrets."""

    def __init__(self, api: Api, ledger: Ledger) -> None:
        self._api, self._ledger = api, ledger

    async def settle(self, obj: Object) -> Told:
        """Bring a tenant to what its resource says. Raises Away, ApiError."""
        name, spec = obj["metadata"]["name"], obj.get("spec") or {}
        found = await self._ours(name)
        entries: list[Entry] = []
        for one in spec.get("keys") or ():
            entries.append(await self._entry(name, found, entries, one))
        try:
            settled = await self._ledger.put_tenant(name, desired(spec, entries))
        except Refused as error:
            return Told(False, "Refused", str(error))
        trouble = [one.trouble for one in entries if one.trouble]
        trouble += await self._deliver(name, entries, settled)
        await self._clear(found, {(one.where.namespace, one.where.name) for one in entries})
        return told(entries, settled, trouble)

    async def end(self, name: str) -> None:
        """Its resource is gone: so are its keys, and then their Secrets. Raises Away, ApiError."""
        await self._ledger.end_tenant(name)
        await self._clear(await self._ours(name), set())

    async def _ours(self, tenant: str) -> Found:
        """Every Secret that we made for a tenant, as it is now."""
        query = (("labelSelector", f"{secrets.LABEL}={tenant}"),)
        listed = await self._api.call("GET", SECRETS, query=query)
        return {secrets.at(one): one for one in listed["items"]}

    async def _entry(self, tenant: str, found: Found, before: list[Entry], spec: Object) -> Entry:
        where = secrets.place(spec)
        secret = found.get((where.namespace, where.name))
        said = ""
        if str(where) in {str(one.where) for one in before}:
            secret, said = None, f"Secret {where} is another key's; allowed: one of its own"
        elif secret is None:
            said = await self._trial(secrets.fresh(tenant, where, SettledKey(name="")), where)
        elif secret.get("immutable"):
            said = f"Secret {where} was made immutable; delete it"
        trouble = f"spec.keys[{len(before)}].secretRef: {said}" if said else ""
        return Entry(spec, where, secret, trouble)

    async def _trial(self, secret: Object, where: Place) -> str:
        """Why a Secret could not be made; empty: it could."""
        try:
            await self._api.call("POST", where.collection, secret, query=_TRIAL)
        except ApiError as error:
            if error.reason == "AlreadyExists":
                return (
                    f"Secret {where} is there and was not made for this tenant; it is not touched"
                )
            if error.passing:
                raise
            return error.message[:500]
        return ""

    async def _deliver(
        self, tenant: str, entries: list[Entry], settled: SettledTenant
    ) -> list[str]:
        """Write the keys that were just made; what went wrong with each that was not."""
        keys = {key.name: key for key in settled.keys}
        trouble = []
        for place, one in enumerate(entries):
            key = keys.get(one.spec["name"])
            if key is None or not key.key:
                continue
            try:
                await self._write(tenant, one, key)
            except ApiError as error:
                said = f"the key could not be written: {error.message[:500]}"
                trouble.append(f"spec.keys[{place}].secretRef: {said}")
        return trouble

    async def _write(self, tenant: str, one: Entry, key: SettledKey) -> None:
        if one.secret is None:
            await self._api.create(one.where.collection, secrets.fresh(tenant, one.where, key))
        else:
            await self._api.patch(
                one.where.path, secrets.changed(one.secret, one.where, key), MERGE
            )

    async def _clear(self, found: Found, wanted: set[tuple[str, str]]) -> None:
        """Delete the Secrets of ours that nobody asks for any more."""
        for namespace, name in found.keys() - wanted:
            await self._api.delete(Place(namespace, name, "").path)


def desired(spec: Object, entries: list[Entry]) -> DesiredTenant:
    """A resource's spec, and what has arrived of it, in billing's words."""
    return DesiredTenant(
        display_name=spec.get("displayName") or "",
        time_zone=spec.get("timeZone") or "UTC",
        organization=spec.get("organization"),
        suspended=spec.get("suspended"),
        plan=spec.get("plan"),
        contract=spec.get("contract"),
        projects=[one["name"] for one in spec.get("projects") or ()],
        keys=[_desired(one) for one in entries],
    )


def _desired(one: Entry) -> DesiredKey:
    scopes = one.spec.get("scopes") or {}
    return DesiredKey(
        name=one.spec["name"],
        project=one.spec.get("project") or "default",
        models=scopes.get("models"),
        routes=scopes.get("routes"),
        expires_at=one.spec.get("expiresAt"),
        rotation=one.spec.get("rotation", 0),
        overlap_seconds=one.spec.get("overlapSeconds", 3600),
        delivered=one.delivered,
        deliverable=not one.trouble,
    )


def told(entries: list[Entry], settled: SettledTenant, trouble: list[str]) -> Told:
    """What became of a tenant."""
    places = {one.spec["name"]: str(one.where) for one in entries}
    keys = [
        {"name": key.name, "id": key.id, "prefix": key.prefix, "secret": places[key.name]}
        for key in settled.keys
        if key.id
    ]
    if trouble:
        said = "; ".join(trouble)
        return Told(False, "SecretNotWritten", said, {"keys": keys}, again=said)
    ended = [key.name for key in settled.keys if not key.id]
    said = f"{len(keys)} keys delivered" + (f"; expired: {', '.join(ended)}" if ended else "")
    if settled.suspended:
        return Told(True, "Suspended", f"its keys are refused; {said}", {"keys": keys})
    return Told(True, "Settled", said, {"keys": keys})
