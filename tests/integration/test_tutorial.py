"""docs/tutorial.md as a reader lives through it: two terminals, every block in its order (see `reader`)."""

from pathlib import Path

import pytest

import documents
from documents import DOCS, Block
from reader import GATEWAY, Reader

BLOCKS = list(documents.blocks(DOCS / "tutorial.md"))


@pytest.mark.vllm
def test_every_block_of_the_tutorial_runs(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    followed: list[Block] = []
    try:
        for block in BLOCKS:
            reader.follow(block)
            followed.append(block)
    finally:
        reader.close()
    assert followed == BLOCKS
    assert reader.gateway != GATEWAY
