"""What callers are told where the gate lets nobody in, or not now."""

from tidegate_runtime.contract.links import ModelView
from tidegate_runtime.errors import EngineError, PaymentError, PlatformError, Refusal, TenantError
from tidegate_runtime.hold import Full
from tidegate_runtime.purview import CREDIT


def stopping() -> Refusal:
    """The process ends."""
    return PlatformError(503, "stopping", "The gateway is stopping", retry_after=1)


def too_many(full: Full) -> Refusal:
    """No place to wait is left, for the tenant or for anybody."""
    message = f"As many as may wait for this model already ({full.limit}; coldStart.maxHeld)"
    if full.scope == "tenant":
        return TenantError(429, "held_queue_full", message, retry_after=5)
    return PlatformError(503, "held_queue_full", message, retry_after=5)


def too_many_streams() -> Refusal:
    """Each running stream has a slot, and there are only so many."""
    message = "All places for streams are taken"
    return PlatformError(503, "too_many_streams", message, retry_after=1)


def not_ready(view: ModelView, waited: float, *, priced: bool) -> Refusal:
    """A request waited for as long as it may (`waited`, seconds)."""
    if not priced:
        return PlatformError(
            503, "model_not_priced",
            f"The model `{view.name}` has no price yet (spec.pricing)", retry_after=30,
        )  # fmt: skip
    return EngineError(
        503, "model_not_ready", f"No replica was ready within {waited:.0f} s", retry_after=5
    )


def unmetered(reason: str) -> PlatformError:
    """Nothing is served that cannot be metered."""
    return PlatformError(
        503, "metering_unavailable", f"Usage cannot be recorded: {reason}", retry_after=5
    )


def exhausted(pot: str) -> Refusal:
    """This pot can't pay for the request."""
    if pot.startswith(CREDIT):
        return PaymentError(
            402, "credit_exhausted", "The prepaid credit does not cover this request"
        )
    budget = pot.split(":")[1]
    return PaymentError(
        402,
        "budget_exhausted",
        f"What is left of the budget `{budget}` does not cover this request",
    )


def no_credit(currency: str) -> Refusal:
    """A prepaid tenant has no credit that could pay for the model."""
    return PaymentError(402, "credit_exhausted", f"There is no prepaid credit in {currency}")


def unknown_credit(what: str) -> Refusal:
    """Nobody may spend what cannot be counted: billing has not said how much there is."""
    return PlatformError(
        503, "credit_unknown", f"{what} cannot be checked now; ask again", retry_after=1
    )
