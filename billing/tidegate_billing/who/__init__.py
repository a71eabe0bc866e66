"""Who: organizations, tenants, projects, keys and service accounts, and what became of them.

`roles`, `scopes` and `chain` are pure and import no database, so that the router and the command
line may use them. Every change is a row of `audit`, in the transaction that makes it.
"""
