"""Credit and hard budgets as routers see them: pots, and leases on them (ADR 13)."""
