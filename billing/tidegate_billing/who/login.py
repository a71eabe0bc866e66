"""Who asks: the bearer of the admin token, or of a service account's token that works now."""

import hmac

from sqlalchemy import Connection, or_, select
from starlette.requests import Request

from tidegate_billing import keys
from tidegate_billing.service import Service, now
from tidegate_billing.web import bearer, wrong_token
from tidegate_billing.who.actor import ADMIN, Actor
from tidegate_billing.who.tables import SERVICE_ACCOUNT, SERVICE_TOKEN

TOKEN_START = "sa-tg-"  # noqa: S105 - how every token begins


async def actor(service: Service, request: Request) -> Actor:
    """Who asks. Raises ApiError (401)."""
    token = bearer(request)
    if hmac.compare_digest(token, service.admin_token.encode()):
        return ADMIN
    if not token.startswith(TOKEN_START.encode()):
        raise wrong_token()
    digests = [keys.digest(pepper, token).hex() for pepper in service.peppers.values()]
    found = await service.database.read(lambda connection: _account(connection, digests, now()))
    if found is None:
        raise wrong_token()
    return found


def _account(connection: Connection, digests: list[str], at: int) -> Actor | None:
    """192 random bits are looked up by their digest: how long that takes tells nothing of them."""
    account = SERVICE_ACCOUNT.c
    row = connection.execute(
        select(account.id, account.role, account.organization, account.tenant)
        .join(SERVICE_TOKEN, SERVICE_TOKEN.c.account == account.id)
        .where(
            SERVICE_TOKEN.c.digest.in_(digests),
            or_(SERVICE_TOKEN.c.expires_at.is_(None), SERVICE_TOKEN.c.expires_at > at),
            account.disabled_at.is_(None),
        )
    ).first()
    return None if row is None else Actor(row.id, row.role, row.organization, row.tenant)
