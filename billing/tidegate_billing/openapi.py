"""The management API's OpenAPI 3.1 document, made of the operations that its routes are made of."""

from collections.abc import Iterable
from typing import Any

import msgspec

from tidegate_billing.frame import ETAGS, PREFIX, Operation, Query
from tidegate_billing.web import MONTH, Problem

_DESCRIPTION = """\
Bearers of the admin token may do everything; a service account's token may do what its role allows,
inside its organization or tenant, and what is outside answers as if it were not there.

Lists are paged by `limit` and `after` (the id of the last row, or its `seq`), with `has_more`.

A POST with an `Idempotency-Key` may be sent again for 24 hours and is done once; a key in its
answer, or a token, is derived again for who knows the idempotency key, and is kept nowhere. A
webhook's secret is derived so, too, but kept: messages are signed with it.

An object's ETag may be sent as `If-Match` with a change (it is optional); a change of what is not
as it was then answers 412. Of a key's ETag, when the key was last used does not count."""

_HEADERS: dict[str, dict[str, object]] = {
    "Idempotency-Key": {
        "name": "Idempotency-Key",
        "in": "header",
        "description": "the same for each repetition of one request, best a random UUID",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    },
    "If-Match": {
        "name": "If-Match",
        "in": "header",
        "description": "change the object only if this is still its ETag",
        "schema": {"type": "string", "pattern": f"^({ETAGS})$"},
    },
}
_ERRORS = {"400": "Bad", "401": "Nobody", "403": "Forbidden", "404": "Missing", "default": "Other"}


def document(operations: Iterable[Operation]) -> dict[str, object]:
    """The document that describes `operations`."""
    listed = list(operations)
    kinds = _kinds(listed)
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}"
    )
    refs = dict(zip((str(kind) for kind in kinds), schemas, strict=True))
    paths: dict[str, dict[str, object]] = {}
    for one in listed:
        paths.setdefault(PREFIX + one.path, {})[one.method.lower()] = _operation(one, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tidegate management API", "version": "v1", "description": _DESCRIPTION},
        "security": [{"bearer": []}],
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": components,
        },
        "paths": paths,
    }


def _kinds(operations: list[Operation]) -> list[Any]:
    kinds: dict[str, Any] = {str(Problem): Problem}
    for one in operations:
        for kind in (one.answer, one.body):
            if kind is not None:
                kinds[str(kind)] = kind
    return list(kinds.values())


def _operation(one: Operation, refs: dict[str, dict[str, Any]]) -> dict[str, object]:
    schema = {"type": "object"} if one.answer is None else refs[str(one.answer)]
    answer: dict[str, object] = {
        "description": "OK",
        "content": {"application/json": {"schema": schema}},
    }
    if one.versioned:
        answer["headers"] = {"ETag": {"required": True, "schema": {"type": "string"}}}
    errors = dict(_ERRORS)
    if one.method in {"PATCH", "DELETE"} or one.path.endswith("/rotate"):
        errors["412"] = "Changed meanwhile"
    if one.method == "POST":
        errors["422"] = "The idempotency key was used for another request"
    problem = {"application/problem+json": {"schema": refs[str(Problem)]}}
    responses: dict[str, object] = {str(one.status): answer}
    responses.update(
        (status, {"description": text, "content": problem}) for status, text in errors.items()
    )
    found: dict[str, object] = {
        "operationId": f"{one.handler.__module__.rpartition('.')[2]}_{one.handler.__name__}",
        "summary": one.summary,
        "description": f"Needs `{one.action}`.",
        "parameters": _parameters(one),
        "responses": responses,
    }
    if one.body is not None:
        content = {"application/json": {"schema": refs[str(one.body)]}}
        found["requestBody"] = {"required": True, "content": content}
    return found


def _parameters(one: Operation) -> list[dict[str, object]]:
    found = [_query(query) for query in one.query]
    for part in one.path.split("/"):
        if part.startswith("{"):
            name = part.strip("{}")
            pattern = f"^{MONTH.pattern}$" if name == "month" else r"^[A-Za-z0-9._-]+$"
            schema = {"type": "string", "pattern": pattern}
            found.append({"name": name, "in": "path", "required": True, "schema": schema})
    if one.method == "POST":
        found.append(_HEADERS["Idempotency-Key"])
    if one.method in {"PATCH", "DELETE"} or one.path.endswith("/rotate"):
        found.append(_HEADERS["If-Match"])
    return found


def _query(query: Query) -> dict[str, object]:
    return {
        "name": query.name,
        "in": "query",
        "required": query.required,
        "description": query.text,
        "schema": dict(query.schema),
    }
