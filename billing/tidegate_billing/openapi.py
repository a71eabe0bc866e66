"""The management API's OpenAPI document, written out: ten routes need no generator."""

from tidegate_billing.ledger import DIMENSIONS

_PAGE = [("limit", "rows a page"), ("after", "the id after which to go on")]


def _operation(
    summary: str,
    query: list[tuple[str, str]] | None = None,
    *,
    path: str = "",
    body: dict[str, str] | None = None,
    status: str = "200",
) -> dict[str, object]:
    parameters: list[dict[str, object]] = [
        {"name": name, "in": "query", "description": text, "schema": {"type": "string"}}
        for name, text in query or []
    ]
    if path:
        parameters.append(
            {"name": path, "in": "path", "required": True, "schema": {"type": "string"}}
        )
    operation: dict[str, object] = {
        "summary": summary,
        "parameters": parameters,
        "responses": {
            status: {"description": "OK", "content": {"application/json": {}}},
            "default": {"description": "An error: {error: {message, type, code, param}}"},
        },
    }
    if body is not None:
        properties = {name: {"type": "string", "description": text} for name, text in body.items()}
        schema = {"type": "object", "properties": properties, "additionalProperties": False}
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
        }
    return operation


_TENANT = ("tenant", "a tenant's name")

DOCUMENT: dict[str, object] = {
    "openapi": "3.1.0",
    "info": {"title": "Tidegate management API", "version": "v1"},
    "security": [{"admin": []}],
    "components": {"securitySchemes": {"admin": {"type": "http", "scheme": "bearer"}}},
    "paths": {
        "/api/v1/tenants": {
            "post": _operation("Make a tenant", body={"name": "its slug"}, status="201"),
            "get": _operation("List tenants", _PAGE),
        },
        "/api/v1/keys": {
            "post": _operation(
                "Make a key; it is shown once",
                body={"tenant": "made when missing", "project": "likewise", "name": "for people"},
                status="201",
            ),
            "get": _operation("List keys", [_TENANT, ("revoked", "true | false"), *_PAGE]),
        },
        "/api/v1/keys/{id}": {"delete": _operation("Revoke a key for good", path="id")},
        "/api/v1/usage": {
            "get": _operation(
                "Billed usage of a tenant",
                [
                    _TENANT,
                    ("from", "first day, YYYY-MM-DD, UTC; default: this month's first"),
                    ("to", "last day, included; default: today"),
                    ("by", f"any of {', '.join(DIMENSIONS)}, comma-separated; default: model"),
                ],
            )
        },
        "/api/v1/invoices/{month}": {
            "get": _operation(
                "A tenant's invoice for a month",
                [_TENANT, ("currency", "needed where the month has several")],
                path="month",
            )
        },
        "/api/v1/events": {
            "get": _operation(
                "Events of the ledger",
                [
                    _TENANT,
                    ("request_id", "the gateway's x-request-id"),
                    ("reason", "why not billed"),
                    ("kind", "settlement (default) | attempt | orphan"),
                    *_PAGE,
                ],
            )
        },
        "/api/v1/conservation": {
            "get": _operation("Engine counters against the ledger", [("model", "only this model")])
        },
    },
}
