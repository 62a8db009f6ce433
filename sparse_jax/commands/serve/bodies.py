"""Bodies of requests, within their limits: how long they are, and how long they take to come."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from sparse_jax.commands.serve.reading import Refusal

MAX_BODY = 4 << 20
"""Bytes of a request."""
MAX_FILE = 64 << 20
"""Bytes of a file that a page takes."""
MAX_FILES_BYTES = 1 << 30
"""Bytes of all files of one upload."""
BODY_SECONDS = 60.0
"""How long a body may take to come."""
STOP_SECONDS = 3.0
"""How long one that is on its way may still take once the server stops."""


class Bodies:
    """Reads bodies; on a stop those that are half sent are given up after `STOP_SECONDS`."""

    def __init__(self) -> None:
        self._timeouts: set[asyncio.Timeout] = set()
        self._stopping = False

    async def read(self, request: Request, most: int = MAX_BODY) -> bytes:
        """The body of a request.

        One that says beforehand that it is too long is refused before any of it is read. What its
        client sends of it nevertheless is read and dropped by the server, as a connection closed
        in the middle would lose the answer.

        Args:
          request: whose body it is.
          most: its bytes, at most.

        Raises:
          Refusal: with status 413 if it is longer, with 408 if it takes too long.
          ClientDisconnect: if the client is gone.
        """
        said = request.headers.get("content-length", "")
        if said.isdigit() and int(said) > most:
            raise _too_long(int(said), most)
        body = bytearray()
        try:
            async with asyncio.timeout(STOP_SECONDS if self._stopping else BODY_SECONDS) as timeout:
                self._timeouts.add(timeout)
                try:
                    async for chunk in request.stream():
                        body += chunk
                        if len(body) > most:
                            raise _too_long(len(body), most)
                finally:
                    self._timeouts.discard(timeout)
        except TimeoutError:
            raise self._too_slow(len(body)) from None
        return bytes(body)

    def stop(self) -> None:
        """Gives the bodies that are on their way a last few seconds. To be called in the loop."""
        self._stopping = True
        last = asyncio.get_running_loop().time() + STOP_SECONDS
        for timeout in self._timeouts:
            when = timeout.when()
            timeout.reschedule(last if when is None else min(when, last))

    def _too_slow(self, length: int) -> Refusal:
        must, cure = f"be sent within {BODY_SECONDS:g} seconds", "send it in one go"
        if self._stopping:
            must, cure = "be sent before the server stops", "send it again when it runs"
        return Refusal("body", f"{length:,} bytes so far", must, cure, status=408)


def _too_long(length: int, most: int) -> Refusal:
    must, cure = f"have at most {most:,} bytes", "send less in each request"
    return Refusal("body", f"{length:,} bytes", must, cure, status=413)
