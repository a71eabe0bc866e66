"""Errors by whose fault they are, and the one shape in which a client sees them.

Refusal            anything a client is told instead of an answer
|- TenantError     the caller's doing (4xx): asking again unchanged will not help, or not yet
|  `- PaymentError nothing is left to pay for it (402)
|- EngineError     the model's engine failed (5xx): asking again may help
`- PlatformError   ours (5xx): nothing is wrong with the request
"""

import msgspec


class _Detail(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str


class _Body(msgspec.Struct):
    error: _Detail


class Refusal(Exception):
    """`status` is the HTTP status; `code` is stable and for programs, the message is for people."""

    kind = "server_error"

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> bytes:
        """OpenAI's error object as JSON."""
        return msgspec.json.encode(_Body(_Detail(self.message, self.kind, self.param, self.code)))


class TenantError(Refusal):
    """The caller's doing (4xx)."""

    kind = "invalid_request_error"


class PaymentError(TenantError):
    """Nothing is left to pay for it (402)."""

    kind = "insufficient_quota"


class EngineError(Refusal):
    """The engine's doing (5xx, retryable)."""

    kind = "engine_error"


class PlatformError(Refusal):
    """Our own doing (5xx)."""


def model_not_found(name: str) -> TenantError:
    """The same answer for a model that does not exist and for one that is somebody else's."""
    return TenantError(
        404,
        "model_not_found",
        f"The model `{name[:253]}` does not exist or you do not have access to it.",
        param="model",
    )
