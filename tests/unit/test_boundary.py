"""A fault of ours ends the request it is in, and that request only."""

import pytest

from tidegate_runtime.boundary import bounded


class Request:
    def __init__(self) -> None:
        self.failed: list[tuple[object, ...]] = []

    def fail(self, *args: object) -> None:
        self.failed.append(args)

    @bounded
    def step(self, value: int) -> None:
        if value < 0:
            raise KeyError(value)

    @bounded
    def interrupted(self) -> None:
        raise KeyboardInterrupt


def test_an_unexpected_exception_ends_in_fail_with_its_arguments() -> None:
    request = Request()
    request.step(1)
    assert request.failed == []
    request.step(-1)
    assert request.failed == [(-1,)]


def test_what_ends_the_process_passes() -> None:
    with pytest.raises(KeyboardInterrupt):
        Request().interrupted()
