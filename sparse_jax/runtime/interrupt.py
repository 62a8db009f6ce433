"""A clean Ctrl-C for training loops."""

from __future__ import annotations

import signal
import threading
import time


class Interrupt:
    """Turns Ctrl-C into a flag, so that no step is cut in two; a second Ctrl-C ends at once.

    With `seconds`, training that asks `ended` has this long, too. Loops inside each other can
    share one: entered again, it goes on. Python delivers signals to its main thread alone: entered
    in another thread, only the time counts.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.asked = False
        self.deadline = None if seconds is None else time.monotonic() + seconds
        self.depth = 0
        self.installed = False

    @property
    def ended(self) -> bool:
        """Whether to stop, because of Ctrl-C or the clock."""
        return self.asked or (self.deadline is not None and time.monotonic() >= self.deadline)

    def __enter__(self) -> Interrupt:
        if not self.depth and threading.current_thread() is threading.main_thread():
            self.before = signal.signal(signal.SIGINT, self._ask)
            self.installed = True
        self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1
        if not self.depth and self.installed:
            signal.signal(signal.SIGINT, self.before)
            self.installed = False

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
