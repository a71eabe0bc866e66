"""What the platform team keeps in git: price books and tenants, brought to billing and back.

Billing owns both; a resource says what there should be, and its status what there is. `follow`
says when, `books` and `tenants` do it, `ledger` asks billing, `secrets` and `told` are pure.
"""
