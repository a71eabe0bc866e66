"""What is looked at again without news: all now and then, and often what has read a Secret."""

from tidegate_operator.kube.rounds import ALL_SECONDS, SECRET_SECONDS, Rounds

KNOWN = ("a/plain", "a/reads")


def reads(one: str) -> bool:
    return one == "a/reads"


def test_nothing_is_due_before_its_time() -> None:
    rounds = Rounds(100.0)
    assert rounds.due(100.0, KNOWN, reads) == []
    assert rounds.due(100.0 + SECRET_SECONDS - 1, KNOWN, reads) == []


def test_what_reads_a_secret_is_due_often_and_once_each_time() -> None:
    rounds = Rounds(100.0)
    first = 100.0 + SECRET_SECONDS
    assert rounds.due(first, KNOWN, reads) == ["a/reads"]
    assert rounds.due(first + 1, KNOWN, reads) == []
    assert rounds.due(first + SECRET_SECONDS, KNOWN, reads) == ["a/reads"]


def test_everything_is_due_now_and_then() -> None:
    rounds = Rounds(100.0)
    assert rounds.due(100.0 + ALL_SECONDS, KNOWN, reads) == list(KNOWN)
    assert rounds.due(100.0 + ALL_SECONDS + 1, KNOWN, reads) == []
