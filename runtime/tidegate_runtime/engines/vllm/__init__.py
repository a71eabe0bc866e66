"""The real vLLM: its environment, its models, its command line and its guard."""
