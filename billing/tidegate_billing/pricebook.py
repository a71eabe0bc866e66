"""Price books in the database: effective-dated versions that are only ever added.

A version is a whole number unique over all deployments, so an event that names one needs nothing
else to be rated. A deployment that loses its price gets a version without one: from then on its
usage is parked, and never silently billed at the old price or at zero.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, Row, insert, select, update

from tidegate_billing import accounts, price
from tidegate_billing.links import ModelPricing, PricedModel, PriceView, Pricing
from tidegate_billing.price import Price
from tidegate_billing.tables import MODEL, PRICE, TENANT
from tidegate_billing.who import audit
from tidegate_billing.who.actor import OPERATOR


class Version(NamedTuple):
    """One entry of a deployment's own prices. `price` None: from here on there is none."""

    version: int
    deployment: str
    effective_from: int
    price: Price | None

    @property
    def pricing(self) -> Pricing | None:
        """The price as a resource says it."""
        if self.price is None:
            return None
        cached = self.price.cached_input
        return Pricing(
            currency=self.price.currency,
            input_per_million=price.per_million(self.price.input),
            output_per_million=price.per_million(self.price.output),
            cached_input_per_million=None if cached is None else price.per_million(cached),
        )


class Applied(NamedTuple):
    """What a whole-state list of models changed."""

    answers: list[PricedModel]
    changed: list[PriceView]
    tenants: list[str]


def version_of(row: "Row[tuple[object, ...]]") -> Version:
    """The version that a row is."""
    found = None
    if row.currency:
        cached = row.cached_input_per_million
        found = Price(
            row.currency,
            price.per_token(row.input_per_million),
            price.per_token(row.output_per_million),
            None if cached is None else price.per_token(cached),
        )
    return Version(row.version, row.deployment, row.effective_from, found)


def versions(connection: Connection, numbers: Iterable[int]) -> dict[int, Version]:
    """The versions that exist among `numbers`; numbers of documents' rates are none of them."""
    wanted = sorted(set(numbers))
    if not wanted:
        return {}
    rows = connection.execute(
        select(PRICE).where(PRICE.c.version.in_(wanted), PRICE.c.source.is_(None))
    )
    return {row.version: version_of(row) for row in rows}


def history(connection: Connection, deployments: Collection[str]) -> dict[str, list[Version]]:
    """Every version of some deployments, in the order in which they came into force."""
    found: dict[str, list[Version]] = {}
    if deployments:
        rows = connection.execute(
            select(PRICE)
            .where(PRICE.c.deployment.in_(sorted(deployments)), PRICE.c.source.is_(None))
            .order_by(PRICE.c.effective_from, PRICE.c.version)
        )
        for row in rows:
            found.setdefault(row.deployment, []).append(version_of(row))
    return found


def in_force(versions: Sequence[Version], when: int) -> Version | None:
    """The one of a deployment's versions, in their order, that is in force at `when`."""
    begun = [version for version in versions if version.effective_from <= when]
    return begun[-1] if begun else None


def at(connection: Connection, deployment: str, when: int) -> Version | None:
    """The version in force for a deployment at `when` (microseconds)."""
    return in_force(history(connection, [deployment]).get(deployment, ()), when)


def views(connection: Connection, now: int) -> list[PriceView]:
    """The version in force for every deployment that is there; 0 where there is no price."""
    rows = connection.execute(
        select(MODEL.c.deployment).where(MODEL.c.present).order_by(MODEL.c.deployment)
    )
    return [_view(deployment, at(connection, deployment, now)) for (deployment,) in rows]


def _view(deployment: str, version: Version | None) -> PriceView:
    priced = version is not None and version.price is not None
    number = version.version if priced and version is not None else 0
    return PriceView(deployment=deployment, version=number)


def apply(connection: Connection, models: list[ModelPricing], now: int) -> Applied:
    """Take `models` as the whole state: owners made, prices versioned where they changed."""
    tenants = [
        model.owner
        for model in models
        if accounts.slug_error(model.owner) is None
        and accounts.ensure_tenant(connection, model.owner, now, actor=OPERATOR.id)
    ]
    answers = []
    changed = []
    for model in models:
        answer, moved = _apply_one(connection, model, now)
        answers.append(answer)
        if moved:
            changed.append(PriceView(deployment=model.deployment, version=answer.price_version))
    gone = update(MODEL).where(MODEL.c.deployment.not_in([model.deployment for model in models]))
    connection.execute(gone.values(present=False))
    return Applied(answers, changed, tenants)


def _apply_one(connection: Connection, model: ModelPricing, now: int) -> tuple[PricedModel, bool]:
    wrong = accounts.slug_error(model.owner)
    if wrong is not None:
        return _unpriced(model, f"owner {wrong}"), False
    new = _remember(connection, model)
    try:
        wanted = None if model.pricing is None else price.parse(model.pricing)
        reason = "" if wanted else "the resource names no pricing"
    except price.PriceError as error:
        wanted, reason = None, str(error)
    current = at(connection, model.deployment, now)
    moved = (None if current is None else current.price) != wanted
    if moved:
        before, current = current, _add(connection, model.deployment, wanted, now)
        _recorded(connection, model.owner, before, current, now)
    if wanted is None or current is None:
        return _unpriced(model, reason), new or moved
    answer = PricedModel(deployment=model.deployment, priced=True, price_version=current.version)
    return answer, new or moved


class Listed(msgspec.Struct, frozen=True):
    """A version, as the audit log shows it. `currency` empty: from here on there is no price."""

    version: int
    currency: str
    input_per_million: str
    output_per_million: str
    cached_input_per_million: str | None


def _listed(connection: Connection, version: Version | None) -> Listed | None:
    if version is None:
        return None
    texts = [PRICE.c[name] for name in Listed.__struct_fields__]
    row = connection.execute(select(*texts).where(PRICE.c.version == version.version)).one()
    return Listed(**dict(zip(Listed.__struct_fields__, row, strict=True)))


def _recorded(
    connection: Connection, owner: str, before: Version | None, after: Version, now: int
) -> None:
    """Write down a change of price. The operator tells us of it, whoever changed the resource."""
    organization = connection.execute(
        select(TENANT.c.organization).where(TENANT.c.id == owner)
    ).scalar()
    audit.record(
        connection,
        actor=OPERATOR.id,
        at=now,
        action="price.set",
        object_id=after.deployment,
        organization=organization,
        tenant=owner,
        before=_listed(connection, before),
        after=_listed(connection, after),
    )


def _unpriced(model: ModelPricing, reason: str) -> PricedModel:
    return PricedModel(deployment=model.deployment, priced=False, reason=reason)


def _remember(connection: Connection, model: ModelPricing) -> bool:
    """Store the deployment; True where it was not there."""
    values = {
        "model": model.model,
        "owner": model.owner,
        "adapters": msgspec.json.encode(model.adapters).decode(),
        "present": True,
    }
    known = connection.execute(
        select(MODEL.c.present).where(MODEL.c.deployment == model.deployment)
    ).scalar()
    if known is None:
        connection.execute(insert(MODEL).values(deployment=model.deployment, **values))
    else:
        connection.execute(
            update(MODEL).where(MODEL.c.deployment == model.deployment).values(**values)
        )
    return not known


def _add(connection: Connection, deployment: str, wanted: Price | None, now: int) -> Version:
    cached = None if wanted is None else wanted.cached_input
    result = connection.execute(
        insert(PRICE).values(
            deployment=deployment,
            currency=wanted.currency if wanted else "",
            input_per_million=price.per_million(wanted.input) if wanted else "",
            output_per_million=price.per_million(wanted.output) if wanted else "",
            cached_input_per_million=None if cached is None else price.per_million(cached),
            effective_from=now,
        )
    )
    key = result.inserted_primary_key
    assert key is not None
    return Version(int(key[0]), deployment, now, wanted)
