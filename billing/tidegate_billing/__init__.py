"""Who used what, what it costs, and what they owe."""
