"""The one folder that vLLM's process may import from; it holds nothing but the guard."""
