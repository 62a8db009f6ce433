"""A classifier as it is served: points in JSON to labels with their chances."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.routing import BaseRoute

from sparse_jax import data, xmc
from sparse_jax.commands.serve.protocols import Service
from sparse_jax.commands.serve.reading import (
    MAX_POINTS,
    Refusal,
    answers_each,
    check_fields,
    check_strings,
    fraction,
    one_of,
    several,
)

_FLOAT32_MAX = float(np.finfo(np.float32).max)


class Points(NamedTuple):
    """A request to a classifier."""

    points: data.XmcData
    top_k: int
    threshold: float
    unknown: list[int] | None  # features of each point that the model doesn't have

    @property
    def size(self) -> int:
        """Points in it."""
        return self.points.num_points


class Classifier:
    """`POST /predict` of an `xmc.Model`."""

    kind, door = "xmc", "/predict"

    def __init__(self, model: xmc.Model) -> None:
        self.model = model
        names = model.about.feature_names
        self._vocabulary = None if names is None else data.Vocabulary(names)
        self._ids = {} if names is None else {name: i for i, name in enumerate(names)}
        self._compile()

    def _compile(self) -> None:
        """Compiles the usual sizes before anybody waits for them: batches of 8 and 256 points."""
        for rows, entries in ((8, 1 << 10), (32, 1 << 12)):
            size = 64
            while size <= entries and size <= rows * self.model.num_features:
                point = {"ids": list(range(size // rows)), "values": [1] * (size // rows)}
                self.answer([self.read({"features": [point] * rows})])
                size *= 2

    def sizes(self) -> dict[str, Any]:
        about = self.model.about
        return {
            "labels": about.num_labels,
            "features": about.num_features,
            "bytes": self.model.nbytes(),
            "label_names": about.label_names is not None,
            "feature_names": about.feature_names is not None,
        }

    def read(self, body: dict[str, Any]) -> Points:
        check_fields(body, ("texts", "features", "top_k", "threshold"))
        given = one_of(body, "texts", "features")
        values = several(body, given, MAX_POINTS)
        top_k = answers_each(body, 5, len(values), answers="labels", points="points")
        threshold = fraction(body, "threshold", 0)
        if given == "texts":
            return Points(self._points_of_texts(values), top_k, threshold, None)
        points, unknown = self._points_of_features(values)
        return Points(points, top_k, threshold, unknown)

    def _points_of_texts(self, values: list[Any]) -> data.XmcData:
        if self._vocabulary is None:
            must = "be left out, as this model has no feature names"
            cure = 'send features by id: {"features": [{"3": 1.5}]}'
            raise Refusal("texts", values, must, cure)
        return self._vocabulary.transform(check_strings("texts", values))

    def _points_of_features(self, values: list[Any]) -> tuple[data.XmcData, list[int]]:
        counts, unknown = [], []
        ids: list[int] = []
        weights: list[float] = []
        for i, point in enumerate(values):
            found, missing = self._point(f"features[{i}]", point)
            counts.append(len(found))
            unknown.append(missing)
            ids.extend(found)
            weights.extend(found.values())
        points = data.XmcData(
            np.cumsum([0, *counts], dtype=np.int64),
            np.array(ids, np.int32),
            np.array(weights, np.float32),
            np.zeros(len(counts) + 1, np.int64),
            np.zeros(0, np.int32),
            num_features=self.model.num_features,
            num_labels=self.model.num_labels,
        )
        return points, unknown

    def _point(self, name: str, point: Any) -> tuple[dict[int, float], int]:
        """Values by id, and how many features the model doesn't have."""
        if not isinstance(point, dict):
            raise Refusal(name, point, "be an object", "send values by id or name")
        by_id = set(point) == {"ids", "values"} and all(isinstance(x, list) for x in point.values())
        pairs: list[tuple[str, Any, Any]]
        if by_id:
            if len(point["ids"]) != len(point["values"]):
                must = f"be as many as the {len(point['ids']):,} ids"
                raise Refusal(f"{name}.values", point["values"], must, "send one for each id")
            pairs = [
                (f"{name}.values[{i}]", id, value)
                for i, (id, value) in enumerate(zip(point["ids"], point["values"], strict=True))
            ]
        else:
            pairs = [(f"{name}[{brief_key(key)}]", key, value) for key, value in point.items()]
        found: dict[int, float] = {}
        missing = 0
        for where, key, value in pairs:
            id = self._id(name, key, by_id)
            weight = self._weight(where, value)
            if id is None:
                missing += 1
            elif id in found:
                raise Refusal(name, key, "name each feature once", "sum its values")
            else:
                found[id] = weight
        return found, missing

    def _id(self, name: str, key: Any, by_id: bool) -> int | None:
        """A feature's id; None for one that the model doesn't have."""
        if not by_id and self._vocabulary is not None:
            return self._ids.get(key)
        if by_id:
            valid = isinstance(key, int) and not isinstance(key, bool) and key >= 0
        else:
            valid = key.isascii() and key.isdigit() and len(key) <= 20
        if not valid:
            must = "be a feature's id, a whole number from 0"
            raise Refusal(f"{name}.ids" if by_id else name, key, must, "number features as trained")
        return int(key) if int(key) < self.model.num_features else None

    def _weight(self, where: str, value: Any) -> float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not -_FLOAT32_MAX <= value <= _FLOAT32_MAX:
            raise Refusal(where, value, "be a number that is finite in float32", "mend or drop it")
        if value < 0 and self.model.idf is not None:
            must = "be at least 0, as this model weighs counts by TF-IDF"
            raise Refusal(where, value, must, "send how often the feature occurs")
        return float(value)

    def answer(self, requests: Sequence[Points]) -> list[dict[str, Any]]:
        # Few values of k are compiled; the first labels of more are those of less.
        most = max(request.top_k for request in requests)
        k = min(1 << max(3, (most - 1).bit_length()), self.model.num_labels)
        points = data.concatenate(*(request.points for request in requests))
        found = xmc.predict(self.model, points, k=k)
        out, start = [], 0
        for request in requests:
            predictions = [
                self._prediction(found.labels[row], found.scores[row], request)
                for row in range(start, start + request.size)
            ]
            for prediction, unknown in zip(predictions, request.unknown or (), strict=False):
                prediction["unknown_features"] = unknown
            out.append({"predictions": predictions})
            start += request.size
        return out

    def _prediction(
        self, labels: np.ndarray, scores: np.ndarray, request: Points
    ) -> dict[str, Any]:
        labels, scores = labels[: request.top_k], scores[: request.top_k]
        kept = (labels >= 0) & (scores >= np.float32(request.threshold))
        ids, names = labels[kept].tolist(), self.model.about.label_names
        return {
            "labels": ids,
            "names": None if names is None else [names[i] for i in ids],
            "scores": scores[kept].tolist(),
        }

    def beside(self) -> list[Service]:
        return []

    def routes(self) -> list[BaseRoute]:
        return []

    def close(self) -> None:
        pass


def brief_key(key: str) -> str:
    """A key as a message shows it."""
    return key if len(key) <= 30 else key[:30] + "…"
