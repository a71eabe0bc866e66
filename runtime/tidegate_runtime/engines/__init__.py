"""What serves a model: the real vLLM and our deterministic stand-in."""
