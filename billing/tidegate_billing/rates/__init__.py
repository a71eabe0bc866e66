"""Prices, from the book's document to the invoice's lines: pure, exact, and not yet a database's.

Owns: what is counted (`meters`), what a quantity costs (one file per price kind), which price
applies and in which order its parts work (`pipeline`), the documents that people write (`book`,
`contract`), which version is in force (`select`) and the lines of an invoice (`lines`).

Does not own: events, counters, versions' numbers, where anything is stored. Times are arguments,
in microseconds since the epoch: a version is chosen by the attempt's time, a running count
belongs to the calendar month (UTC) of the attempt's id. Every amount is an integer of atto
(`tidegate_billing.money`).
"""
