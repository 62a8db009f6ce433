"""The thread in which a model answers, so that the server stays free to answer for its health.

A model answers one batch at a time. Requests that came while it was busy are answered together, as
one batch: under load that is what saves most.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from sparse_jax.commands.serve.reading import Refusal, decode, encode

BATCH = 256
"""Points beyond which no further request is taken into a batch."""
MAX_WAITING = 128
"""Requests that may wait; those beyond are asked to come again."""


class Request(Protocol):
    """What a model reads from a body."""

    @property
    def size(self) -> int:
        """Points or queries in it."""


class Worker:
    """One thread that reads, answers and writes.

    Args:
      read: a decoded body to a request; raises `Refusal`.
      answer: several requests to as many answers, JSON values.
    """

    def __init__(
        self,
        read: Callable[[dict[str, Any]], Any],
        answer: Callable[[Sequence[Any]], list[dict[str, Any]]],
    ) -> None:
        self._read, self._answer = read, answer
        self._waiting: collections.deque[tuple[bytes, Future[bytes]]] = collections.deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="model")

    @property
    def waiting(self) -> int:
        """Requests that no batch has been begun for."""
        return len(self._waiting)

    def ask(self, body: bytes) -> Future[bytes]:
        """The answer to a body, in JSON, once there is one.

        Raises:
          Refusal: with status 503 if too many requests wait.
        """
        if self.waiting >= MAX_WAITING:
            must = f"be below {MAX_WAITING} requests"
            raise Refusal("waiting", self.waiting, must, "try again in a second", status=503)
        future: Future[bytes] = Future()
        self._waiting.append((body, future))
        self._pool.submit(self._work)  # one for each request; those that find none left return
        return future

    def close(self) -> None:
        """Ends the thread after what it was asked."""
        self._pool.shutdown()

    def _work(self) -> None:
        batch: list[tuple[Any, Future[bytes]]] = []
        size = 0
        while self._waiting and size < BATCH:
            body, future = self._waiting.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                request = self._read(decode(body))
            except Exception as error:
                future.set_exception(error)
            else:
                batch.append((request, future))
                size += request.size
        if batch:
            self._settle(batch)

    def _settle(self, batch: list[tuple[Any, Future[bytes]]]) -> None:
        try:
            answers = [encode(a) for a in self._answer([request for request, _ in batch])]
        except Exception as error:
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            else:  # the others are not to suffer from one
                for one in batch:
                    self._settle([one])
        else:
            for (_, future), answer in zip(batch, answers, strict=True):
                future.set_result(answer)
