"""What the server asks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from starlette.routing import BaseRoute


class Service(Protocol):
    """What answers requests in JSON of one kind."""

    door: str  # the path that requests are posted to

    def read(self, body: dict[str, Any]) -> Any:
        """A request with a `size`; raises `Refusal`. In the service's thread, as `answer`."""

    def answer(self, requests: Sequence[Any]) -> list[dict[str, Any]]:
        """One answer for each request, JSON values; all are computed together."""


class Served(Service, Protocol):
    """What the server asks of a model."""

    kind: str

    def sizes(self) -> dict[str, Any]:
        """What `/health` says of it: JSON values."""

    def beside(self) -> Sequence[Service]:
        """Services that it has beside itself."""

    def routes(self) -> list[BaseRoute]:
        """Pages for people, if there are any."""

    def close(self) -> None:
        """Lets go of its files."""
