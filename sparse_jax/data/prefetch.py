"""An iterator that runs ahead in a background thread."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterable
from threading import Condition, Thread
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class prefetch(Generic[T]):
    """Run an iterator in a background thread, at most `size` items ahead.

    Items come in order. An exception of the iterator is raised where its item would have come.
    The thread ends when the iterator does, on `close()`, at the end of a `with` block, or when
    the object is collected; closing waits for the item in the making, and also closes the
    iterator if it is a generator.

    Args:
        iterator: what to run; nobody else may use it from then on.
        size: items to hold ready, at least 1.

    Raises:
        ValueError: size below 1.

    Example:
        >>> with prefetch(iter(range(3)), 2) as ahead:
        ...     list(ahead)
        [0, 1, 2]
    """

    def __init__(self, iterator: Iterable[T], size: int = 2) -> None:
        if size < 1:
            raise ValueError(f"size = {size}: must be at least 1")
        self._channel = _Channel(size)
        # The thread knows the channel, not this object, which can thus be collected.
        self._thread = Thread(
            target=_fill, args=(self._channel, iterator), name="sparse_jax.prefetch", daemon=True
        )
        self._stop = weakref.finalize(self, self._channel.stop)
        self._thread.start()

    def __iter__(self) -> prefetch[T]:
        return self

    def __next__(self) -> T:
        return self._channel.get()

    def close(self) -> None:
        """Stop, drop what was prepared, and wait for the thread. May be called twice."""
        self._stop()
        self._thread.join()

    def __enter__(self) -> prefetch[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Channel:
    """A bounded queue whose two sides can both be told that it is over."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._items: deque[Any] = deque()
        self._changed = Condition()
        self._stopped = False  # the reader wants no more
        self._ended = False  # the writer has no more
        self._error: BaseException | None = None

    def put(self, item: Any) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._size)
            if not self._stopped:
                self._items.append(item)
                self._changed.notify_all()
            return not self._stopped

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def get(self) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._ended or bool(self._items))
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            error, self._error = (None if self._stopped else self._error), None
        if error is not None:
            raise error
        raise StopIteration

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


def _fill(channel: _Channel, iterable: Iterable[Any]) -> None:
    error: BaseException | None = None
    try:
        iterator = iter(iterable)
        try:
            for item in iterator:
                if not channel.put(item):
                    break
        finally:
            close = getattr(iterator, "close", None)
            if close is not None:
                close()
    except BaseException as raised:  # handed to the reader, whatever it is
        error = raised
    channel.end(error)
