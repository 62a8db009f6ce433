"""Servers of the tests on free loopback ports, and a client of the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import selectors
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from sparse_jax import data, xmc

ROOT = Path(__file__).resolve().parents[1]


class Answer(NamedTuple):
    """What came back."""

    status: int
    body: Any  # JSON where it is said to be
    headers: dict[str, str]


class Server(NamedTuple):
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    port: int
    log: Path  # its standard error

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """One request on a connection of its own; a body that isn't bytes goes as JSON."""
        with connect(self.port) as connection:
            return ask(connection, method, path, body, **headers)


@contextlib.contextmanager
def connect(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        yield connection
    finally:
        connection.close()


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Any = None,
    **headers: str,
) -> Answer:
    """One request of several on a connection."""
    if body is not None and not isinstance(body, bytes):
        body = json.dumps(body).encode()
    connection.request(method, path, body, headers)
    return read(connection)


def read(connection: http.client.HTTPConnection) -> Answer:
    """The answer to what was sent."""
    response = connection.getresponse()
    raw, found = response.read(), {k.lower(): v for k, v in response.getheaders()}
    is_json = found.get("content-type") == "application/json" and raw
    return Answer(response.status, json.loads(raw) if is_json else raw.decode(), found)


@contextlib.contextmanager
def serving(model: Path, log: Path) -> Iterator[Server]:
    """`scripts/serve.py MODEL`, stopped at the end whatever happens."""
    command = [sys.executable, str(ROOT / "scripts" / "serve.py"), str(model), "--port", "0"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            assert selector.select(timeout=120), "the server did not start in two minutes"
        line = process.stdout.readline()
        assert line.startswith("http://127.0.0.1:"), line + log.read_text()
        yield Server(process, int(line.rpartition(":")[2]), log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def serving_classifier(model: xmc.Model, place: Path) -> Iterator[Server]:
    """A classifier in a process of its own, whose log holds no traceback."""
    xmc.save(model, place / "model")
    with serving(place / "model", place / "log") as started:
        yield started
        assert started.ask("GET", "/health").status == 200
    assert started.process.returncode == 0
    assert set(started.log.read_text().splitlines()) <= {"WARNING:  Invalid HTTP request received."}


KINDS = ("fruit", "car", "tool")
WORDS = [f"{kind}{i}" for kind in KINDS for i in range(20)]
NAMES = [*(f"about {kind}s" for kind in KINDS), *(f"has {word}" for word in WORDS[:20])]


def make_texts(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, 3, count)
    return [" ".join(WORDS[20 * k + i] for i in rng.integers(0, 20, 6)) for k in kinds]


def make_points() -> tuple[data.XmcData, data.Vocabulary]:
    """Texts about one of three subjects each; labels are subjects, and words of the first."""
    texts = make_texts(300, seed=0)
    vocabulary = data.Vocabulary.fit(texts)
    points = vocabulary.transform(texts, num_labels=len(NAMES))
    labels = []
    for text in texts:
        found = {KINDS.index(text.split()[0].rstrip("0123456789"))}
        found |= {3 + int(word[5:]) for word in text.split() if word.startswith("fruit")}
        labels.append(np.array(sorted(found), np.int32))
    counts = np.cumsum([0, *map(len, labels)])
    fields = (points.feature_offsets, points.feature_ids, points.feature_values)
    sizes = {"num_features": vocabulary.num_features, "num_labels": len(NAMES)}
    return data.XmcData(*fields, counts, np.concatenate(labels), **sizes), vocabulary


def fit_named() -> xmc.Model:
    """A classifier with names of all it knows."""
    points, vocabulary = make_points()
    return xmc.fit(points, label_names=NAMES, feature_names=vocabulary.words)


def expected(model: xmc.Model, points: data.XmcData, top_k: int = 5, threshold: float = 0):
    """What `xmc.predict` gives, as the server writes it.

    For as many labels as the server asks for: from jax 0.12 on a score's last bit may follow k.
    """
    found = xmc.predict(
        model, points, k=min(1 << max(3, (top_k - 1).bit_length()), model.num_labels)
    )
    out = []
    for labels, scores in zip(found.labels[:, :top_k], found.scores[:, :top_k], strict=True):
        kept = (labels >= 0) & (scores >= threshold)
        ids, names = labels[kept].tolist(), model.about.label_names
        named = None if names is None else [names[i] for i in ids]
        out.append({"labels": ids, "names": named, "scores": scores[kept].tolist()})
    return out
