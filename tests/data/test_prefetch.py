"""The background thread: order, bounds, errors, and its end."""

from __future__ import annotations

import gc
import threading
import time

import pytest

from sparse_jax.data import prefetch


def threads() -> int:
    return sum(t.name == "sparse_jax.prefetch" for t in threading.enumerate())


def test_prefetch_keeps_order_and_ends():
    ahead = prefetch((i for i in range(100)), 3)
    assert list(ahead) == list(range(100))
    assert next(ahead, "end") == "end"
    ahead.close()
    assert threads() == 0


def test_prefetch_works_ahead_within_bounds():
    made = []

    def source():
        for i in range(20):
            made.append(i)
            yield i

    with prefetch(source(), 4) as ahead:
        deadline = time.monotonic() + 10
        while len(made) < 5 and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.02)
        assert len(made) == 5  # four wait, one is in hand
        assert next(ahead) == 0
    assert threads() == 0


def test_prefetch_hands_over_exceptions_in_order():
    def source():
        yield 1
        raise KeyError("here")

    with prefetch(source(), 4) as ahead:
        assert next(ahead) == 1
        with pytest.raises(KeyError, match="here"):
            next(ahead)
        assert next(ahead, "end") == "end"


@pytest.mark.parametrize("how", ["close", "collect", "exception"])
def test_prefetch_stops_and_closes_its_source(how):
    closed = threading.Event()

    def source():
        try:
            while True:
                yield 0
        finally:
            closed.set()

    ahead = prefetch(source(), 2)
    next(ahead)
    if how == "close":
        ahead.close()
        ahead.close()
        assert next(ahead, "end") == "end"
    elif how == "collect":
        del ahead
        gc.collect()
    else:
        with pytest.raises(RuntimeError), ahead:
            raise RuntimeError
    assert closed.wait(10)


def test_prefetch_size():
    with pytest.raises(ValueError, match="size = 0: must be at least 1"):
        prefetch(iter([]), 0)
