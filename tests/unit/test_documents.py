"""The documentation as a whole: its links lead somewhere, its blocks are known to a test."""

import ast
import json
import re
from pathlib import Path

import pytest
import yaml

import documents
from documents import DOCS, ROOT

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]*`")
OUTSIDE = ("http://", "https://", "mailto:")


def links(page: Path) -> list[str]:
    return LINK.findall(CODE.sub("", FENCE.sub("", page.read_text())))


def anchors(page: Path) -> set[str]:
    """The ids that a page's headings get, by GitHub's rules."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", head).lower() for head in heads]
    return {re.sub(r"[^\w\- ]", "", head).strip().replace(" ", "-") for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        if link.startswith(OUTSIDE):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def test_the_index_leads_to_every_page() -> None:
    index = DOCS / "README.md"
    led = {(DOCS / link.partition("#")[0]).resolve() for link in links(index)}
    pages = {page for page in DOCS.rglob("*.md") if page != index}
    assert {str(page.relative_to(DOCS)) for page in pages - led} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_yaml_and_json_blocks_can_be_read(page: Path) -> None:
    for block in documents.blocks(page):
        if block.kind == "python":
            ast.parse(block.text)
        elif block.kind in {"yaml", "yml"}:
            list(yaml.safe_load_all(block.text))
        elif block.kind == "json":
            json.loads(block.text)


def test_every_block_of_the_tutorial_says_what_it_is() -> None:
    kinds = {"run": "sh", "serve": "sh", "output": "text", "shows": "text", "interrupt": "text"}
    found = list(documents.blocks(DOCS / "tutorial.md"))
    text = (DOCS / "tutorial.md").read_text()
    assert len(found) == text.count("\n```") / 2 == text.count("<!-- test: ")
    for block in found:
        verb, _, name = block.mark.partition(" ")
        if verb == "file":
            assert Path(name).suffix == {"yaml": ".yaml", "python": ".py"}[block.kind]
        else:
            assert (kinds[verb], name) == (block.kind, ""), block.line


@pytest.mark.parametrize(
    ("expected", "output", "wrong"),
    [
        ("a 1\nb", "a   22\n\nb\n", ""),
        ("took 0.5 s", "took 12.25 s", ""),
        ("6,123.0 MiB", "260.0 MiB", ""),
        ("id ... end", "id 8f-x y end", ""),
        ("...\nb", "a\na\nb", ""),
        ("a\n...", "a\nb\nc", ""),
        ("a\n...\nc\n...", "a\nc", ""),
        ("a", "b", "b"),
        ("a 1", "a x", "a x"),
        ("a", "a\nb", "b"),
        ("a\nb", "a", "nothing is like b"),
        ("...\nb", "a\nc", "nothing is like b"),
    ],
)
def test_what_looks_alike(expected: str, output: str, wrong: str) -> None:
    assert documents.unlike(expected, output) == wrong
