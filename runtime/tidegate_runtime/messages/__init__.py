"""Anthropic's Messages API over an engine's chat route (ADR 15).

`request` turns a request around, `events` and `answer` what the engine says to it, `errors` what we
refuse; `route` joins them for the gateway. Metering sees only the engine's own chat counts.
"""
