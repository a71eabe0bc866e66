"""docs/errors.md as a table of promises, and what the source can say that it must promise."""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "errors.md"
_CELL = re.compile(r"(?<!\\)\|")


class Row(NamedTuple):
    """One way to fail. `cells` by the table's headings; `id` is the first cell's code."""

    id: str
    cells: Mapping[str, str]

    def words(self, column: str = "you see") -> list[str]:
        """What is promised word for word: the column's code spans."""
        return re.findall(r"`([^`]+)`", self.cells[column])


@cache
def tables() -> dict[str, list[Row]]:
    """The page's tables by the heading they stand under."""
    return dict(_tables(PAGE.read_text().splitlines()))


def _tables(lines: Iterable[str]) -> Iterator[tuple[str, list[Row]]]:
    title, head = "", []
    rows: list[Row] = []
    for line in [*lines, "## "]:
        if line.startswith("## "):
            if rows:
                yield title, rows
            title, head, rows = line[3:], [], []
        elif line.startswith("|"):
            cells = [cell.strip().replace(r"\|", "|") for cell in _CELL.split(line)[1:-1]]
            if not head:
                head = cells
            elif not set(line) <= set("|-"):
                assert len(cells) == len(head), line
                rows.append(Row(cells[0].strip("`"), dict(zip(head, cells, strict=True))))


def sentences(paths: Iterable[Path], calls: Iterable[str]) -> dict[str, re.Pattern[str]]:
    """The messages that the source can give to one of `calls`, by where it does: a pattern of each,
    in which whatever is filled in may be anything. A message that another function makes is none."""
    wanted = set(calls)
    found = {}
    for path in paths:
        tree = ast.parse(path.read_text())
        for scope in ast.walk(tree):
            if not isinstance(scope, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            known = _assigned(scope)
            for node in _own(scope):
                if isinstance(node, ast.Call) and _name(node.func) in wanted:
                    where = f"{path.relative_to(ROOT)}:{node.lineno}"
                    for pattern in (_pattern(one, known) for one in node.args):
                        if pattern:
                            found[where] = re.compile(pattern, re.DOTALL)
    return found


def _own(scope: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions inside it."""
    for child in ast.iter_child_nodes(scope):
        yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _own(child)


def _assigned(scope: ast.AST) -> dict[str, ast.expr]:
    return {
        target.id: node.value
        for node in _own(scope)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _name(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _pattern(node: ast.expr, known: Mapping[str, ast.expr]) -> str:
    """A message as a pattern; empty where it is no text with a word of its own."""
    made = _text(node, known)
    return made if re.search(r"[a-z]{2}", made.replace(".*", "")) else ""


def _text(node: ast.expr, known: Mapping[str, ast.expr]) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*"
            for part in node.values
        )
    if isinstance(node, ast.List) and len(node.elts) == 1:
        return _text(node.elts[0], known)
    if isinstance(node, ast.Name) and node.id in known:
        return _text(known[node.id], {})
    return ".*"


def codes(paths: Iterable[Path], kinds: Iterable[str]) -> tuple[set[str], list[str]]:
    """The error codes (second argument) that calls of `kinds` give, and where it is not a literal."""
    wanted, found, other = set(kinds), set(), []
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or _name(node.func) not in wanted:
                continue
            code = node.args[1] if len(node.args) > 1 else None
            if isinstance(code, ast.Constant) and isinstance(code.value, str):
                found.add(code.value)
            else:
                other.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found, other


def plain(text: str) -> str:
    """Text as the page can show it: boxes of a terminal and line breaks gone, ` is '."""
    return " ".join(re.sub("[╭╮╰╯│─]", " ", text).replace("`", "'").split())
