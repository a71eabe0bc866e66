"""The signals that end a platform in order: Ctrl-C, a service manager's, and a terminal that closes."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def told(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` in the running loop for each of them, until the block ends. Signals are the main
    thread's: in another one nothing is heard."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    wanted = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in wanted:
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in wanted:
            loop.remove_signal_handler(number)
