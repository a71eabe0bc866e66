"""Billing's metrics: plain counts, and their Prometheus text."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from tidegate_billing.reconcile import Balance


@dataclass
class Metrics:
    """Counts since the start; `drift` holds |unexplained| tokens by epoch, with its model;
    `places` how far each rollup is from the ledger."""

    events: int = 0
    replays: int = 0
    conflicts: int = 0
    malformed: int = 0
    gaps: int = 0
    parked: int = 0
    drift: dict[str, tuple[str, int]] = field(default_factory=dict)
    places: dict[str, int] = field(default_factory=dict)

    def balanced(self, balances: Iterable[Balance]) -> None:
        """Take the newest result of each epoch."""
        for one in balances:
            self.drift[one.epoch] = (one.model, abs(one.unexplained))

    def compared(self, places: dict[str, int]) -> None:
        """Take the newest comparison of the ledger with its rollups."""
        self.places = dict(places)

    def drifting(self) -> set[str]:
        """Epochs whose last balance had an unexplained rest."""
        return {epoch for epoch, (_, tokens) in self.drift.items() if tokens}


def _label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render(metrics: Metrics, *, parked: int, unshipped: int, subscribers: int) -> str:
    """The metrics in Prometheus text format 0.0.4."""
    singles = [
        ("tidegate_ledger_events_total", "counter", "Events kept.", metrics.events),
        ("tidegate_ledger_replays_total", "counter", "Known events again.", metrics.replays),
        (
            "tidegate_ledger_conflicts_total",
            "counter",
            "Events refused: known id, other content.",
            metrics.conflicts,
        ),
        ("tidegate_ledger_malformed_total", "counter", "Unusable events.", metrics.malformed),
        ("tidegate_journal_gaps_total", "counter", "Batches after a gap.", metrics.gaps),
        ("tidegate_ledger_parked_events", "gauge", "Billed events without a price.", parked),
        ("tidegate_journal_unshipped", "gauge", "Records routers still hold.", unshipped),
        ("tidegate_snapshot_subscribers", "gauge", "Routers connected.", subscribers),
    ]
    lines = []
    for name, kind, text, value in singles:
        lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", f"{name} {value}"]
    name = "tidegate_conservation_drift_tokens"
    lines += [f"# HELP {name} Completion tokens nothing explains.", f"# TYPE {name} gauge"]
    by_model: dict[str, int] = {}
    for model, tokens in metrics.drift.values():
        by_model[model] = by_model.get(model, 0) + tokens
    lines += [f'{name}{{model="{_label(model)}"}} {by_model[model]}' for model in sorted(by_model)]
    name = "tidegate_ledger_drift_tokens"
    lines += [
        f"# HELP {name} Tokens by which a rollup parts from the ledger.",
        f"# TYPE {name} gauge",
    ]
    lines += [f'{name}{{place="{place}"}} {off}' for place, off in sorted(metrics.places.items())]
    return "\n".join(lines) + "\n"
