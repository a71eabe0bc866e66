"""What is wrong with a document: where, and what is allowed there."""

from typing import NamedTuple


class Problem(NamedTuple):
    """`path`: the field, as `entries[0].prices.input`."""

    path: str
    said: str

    def __str__(self) -> str:
        """The sentence that a writer reads."""
        return f"{self.path} {self.said}"


class DocumentError(ValueError):
    """A document cannot be used. `problems`: everything that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = problems
