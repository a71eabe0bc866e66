"""docs/howto: what they say is typed and looks as they say, at a platform that is the tutorial's.

Pages that install packages from a registry run with `make docs-check`; nothing else may need one.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import documents
from documents import DOCS
from reader import Reader
from tidegate_runtime import openai

HERE = ("curl", "openai-python", "keys", "prices", "limits")
INSTALLING = ("openai-javascript", "langchain", "anthropic-python")
SHOWN = ("offline", "gpu")
"""Nothing on these is run: they need another network, or a GPU."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Somebody who has come as far as a key in the tutorial."""
    somebody = Reader(tmp_path_factory.mktemp("howto"))
    try:
        for block in documents.blocks(DOCS / "tutorial.md"):
            somebody.follow(block)
            if "KEY=" in block.text:
                break
        yield somebody
    finally:
        somebody.close()


def follow(reader: Reader, name: str) -> None:
    ran = 0
    for block in documents.blocks(DOCS / "howto" / f"{name}.md"):
        if block.mark:
            reader.follow(block)
        ran += block.mark == "run"
    assert ran


@pytest.mark.parametrize("name", HERE)
def test_what_it_says_works(reader: Reader, name: str) -> None:
    follow(reader, name)


@pytest.mark.parametrize("name", INSTALLING)
def test_what_it_installs_works(reader: Reader, name: str) -> None:
    if not os.environ.get("TEST_REGISTRIES"):
        pytest.skip("it installs from a registry: `make docs-check` runs it")
    if name == "openai-javascript" and shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    if name == "anthropic-python" and "/v1/messages" not in openai.TASKS:
        pytest.skip("this gateway has no /v1/messages")
    follow(reader, name)


def test_every_page_is_run_or_says_why_not() -> None:
    pages = {page.stem for page in Path(DOCS / "howto").glob("*.md")}
    assert pages == {*HERE, *INSTALLING, *SHOWN}
    for name in (*HERE, *INSTALLING):
        for block in documents.blocks(DOCS / "howto" / f"{name}.md"):
            assert block.mark, f"{name}.md, line {block.line}"
    for name in SHOWN:
        assert not [one for one in documents.blocks(DOCS / "howto" / f"{name}.md") if one.mark]
