"""A recommender as it is served: histories in JSON to the items that come next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from starlette.routing import BaseRoute

from sparse_jax import data, recommend
from sparse_jax.commands.serve.protocols import Service
from sparse_jax.commands.serve.reading import (
    MAX_POINTS,
    Refusal,
    answers_each,
    check_fields,
    check_strings,
    one_of,
    several,
)

MAX_EVENTS = 1000
"""Items of one history."""


class Asked(NamedTuple):
    """A request to a recommender."""

    histories: list[list[str]]
    top_k: int
    with_seen: bool

    @property
    def size(self) -> int:
        """Users in it."""
        return len(self.histories)


class Recommender:
    """`POST /predict` of a `recommend.Model`."""

    kind, door = "recommend", "/predict"

    def __init__(self, model: recommend.Model) -> None:
        self.model = model
        self._known = set(model.item_names)
        self._users = {name: row for row, name in enumerate(model.recent.user_names)}
        size = 1
        while size <= 256:  # the usual sizes are compiled before anybody waits for them
            self.answer([self.read({"histories": [list(model.item_names[:8])] * size})])
            size *= 2

    def sizes(self) -> dict[str, Any]:
        return {
            "items": self.model.num_items,
            "users": len(self._users),
            "pairs": len(self.model.pairs.items),
            "bytes": self.model.nbytes(),
        }

    def read(self, body: dict[str, Any]) -> Asked:
        check_fields(body, ("histories", "users", "top_k", "with_seen"))
        given = one_of(body, "histories", "users")
        values = several(body, given, MAX_POINTS)
        top_k = answers_each(body, 10, len(values), answers="items", points="users")
        with_seen = body.get("with_seen", False)
        if not isinstance(with_seen, bool):
            raise Refusal("with_seen", with_seen, "be true or false", "leave it out for false")
        if given == "users":
            found = [self._history_of(i, name) for i, name in enumerate(values)]
        else:
            found = [self._history(i, items) for i, items in enumerate(values)]
        return Asked(found, top_k, with_seen)

    def _history(self, place: int, items: Any) -> list[str]:
        name = f"histories[{place}]"
        if not isinstance(items, list):
            raise Refusal(name, items, "be a list of items", "send them in order of time")
        if len(items) > MAX_EVENTS:
            raise Refusal(name, items, f"be at most {MAX_EVENTS:,} items", "send the last ones")
        return check_strings(name, items)

    def _history_of(self, place: int, user: Any) -> list[str]:
        if not isinstance(user, str) or user not in self._users:
            must = "be the name of a user that the model was trained on"
            raise Refusal(f"users[{place}]", user, must, "send the user's items as histories")
        return self.model.names(self.model.recent.of(self._users[user]))

    def answer(self, requests: Sequence[Asked]) -> list[dict[str, Any]]:
        most = max(request.top_k for request in requests)
        k = min(1 << max(3, (most - 1).bit_length()), self.model.num_items)
        out: list[dict[str, Any]] = [{} for _ in requests]
        for with_seen in (False, True):
            asked = [i for i, request in enumerate(requests) if request.with_seen == with_seen]
            histories = data.of_lists([row for i in asked for row in requests[i].histories])
            found = recommend.predict(self.model, histories, k=k, exclude_seen=not with_seen)
            row = 0
            for i in asked:
                predictions = []
                for history in requests[i].histories:
                    predictions.append(self._prediction(requests[i], history, found, row))
                    row += 1
                out[i] = {"predictions": predictions}
        return out

    def _prediction(
        self, request: Asked, history: list[str], predicted: recommend.Predictions, row: int
    ) -> dict[str, Any]:
        items = predicted.items[row, : request.top_k]
        scores = predicted.scores[row, : request.top_k]
        return {
            "items": self.model.names(items),
            "scores": scores[items >= 0].tolist(),
            "unknown_items": sum(item not in self._known for item in history),
        }

    def beside(self) -> list[Service]:
        return []

    def routes(self) -> list[BaseRoute]:
        return []

    def close(self) -> None:
        pass
