"""A prefix cache as vLLM keeps one: blocks of 16 tokens, found by a chain of hashes.

A block counts as cached only if every block before it does and the salt is the same, so tenants
with different salts never share. The last token of a prompt is always computed, hence a prompt
seen before is never cached to its very end.
"""

BLOCK = 16
CAPACITY = 65_536


class PrefixCache:
    """Remembers blocks, the least recently used leaving first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._seen: dict[int, None] = {}

    def lookup(self, words: tuple[str, ...], salt: str) -> int:
        """How many leading tokens were seen before; from now on all of them have been."""
        seen = self._seen
        chain = hash(salt)
        cached = 0
        hit = True
        for start in range(0, len(words) - BLOCK + 1, BLOCK):
            chain = hash((chain, words[start : start + BLOCK]))
            known = chain in seen
            hit = hit and known
            if hit:
                cached += BLOCK
            if known:
                del seen[chain]
            seen[chain] = None
        while len(seen) > self._capacity:
            del seen[next(iter(seen))]
        return min(cached, max(0, len(words) - 1) // BLOCK * BLOCK)
