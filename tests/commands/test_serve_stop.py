"""Serving over real connections: a busy model, a failing one, and a graceful stop."""

from __future__ import annotations

import json
import re
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

import uvicorn
from in_process import call
from serving import (
    ask,
    connect,
    fit_named,
    read,
    serving,
)

from sparse_jax import xmc
from sparse_jax.commands import serve
from sparse_jax.commands.serve import bodies, reading, worker


@pytest.fixture(scope="module")
def model():
    return fit_named()


class Number(float):
    """A request."""

    size = 1


class Slow:
    """What is served where a test says when it answers."""

    kind, door = "slow", "/slow"

    def __init__(self) -> None:
        self.busy, self.go = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def sizes(self) -> dict[str, Any]:
        return {}

    def read(self, body: dict[str, Any]) -> Any:
        return Number(body["value"])

    def answer(self, requests: Any) -> list[dict[str, Any]]:
        self.batches.append(len(requests))
        self.busy.set()
        assert self.go.wait(60)
        if 13 in requests:
            raise RuntimeError("such is a defect of a model")
        return [{"value": float(r)} for r in requests]

    def beside(self) -> list[Any]:
        return []

    def routes(self) -> list[Any]:
        return []

    def close(self) -> None:
        pass


@pytest.fixture
def slow():
    """(what is served, its port, its server) in a thread of this process."""
    served = Slow()
    app = serve.make_app(served)
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="critical", lifespan="off", timeout_graceful_shutdown=2)
    server = serve.Server(config, app.state.bodies)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield served, listener.getsockname()[1], server
    served.go.set()
    server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()
    app.state.close()


def post(port: int, value: Any) -> Any:
    with connect(port) as connection:
        return ask(connection, "POST", "/slow", {"value": value})


def wait_for(port: int, waiting: int) -> None:
    """Until so many requests wait; health is asked on the way."""
    deadline = time.monotonic() + 30
    with connect(port) as connection:
        while ask(connection, "GET", "/health").body["waiting"] != waiting:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_busy_model_answers_together_what_waited(slow, monkeypatch):
    served, port, _ = slow
    monkeypatch.setattr(worker, "MAX_WAITING", 5)
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(post, port, 0)
        assert served.busy.wait(30)
        rest = [pool.submit(post, port, value) for value in (1, 2, 3, 4, 5)]
        wait_for(port, 5)
        refused = post(port, 6)
        assert refused.status == 503 and refused.headers["retry-after"] == "1"
        served.go.set()
        assert first.result().body == {"value": 0}
        assert [one.result().body["value"] for one in rest] == [1, 2, 3, 4, 5]
    assert served.batches == [1, 5]


def test_a_failure_is_of_its_own_request_alone(slow):
    served, port, _ = slow
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(post, port, 0)
        assert served.busy.wait(30)
        rest = [pool.submit(post, port, value) for value in (1, 13, 3)]
        wait_for(port, 3)
        served.go.set()
        assert first.result().status == 200
        assert [one.result().status for one in rest] == [200, 500, 200]
        assert rest[1].result().body == {
            "error": "the model could not answer this request; the server's log says why"
        }


# -------------------------------------------------------------------------------------------- stop


def test_a_stop_waits_for_what_the_model_computes(slow):
    served, port, server = slow
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(post, port, 3)
        assert served.busy.wait(30)
        server.should_exit = True
        time.sleep(0.5)
        assert not asked.done()
        served.go.set()
        assert asked.result().body == {"value": 3}


def begin(connection: Any, body: bytes, sent: int) -> None:
    """Sends a request and the first bytes of its body."""
    connection.putrequest("POST", "/slow")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:sent])


def test_a_stop_gives_up_what_is_half_sent_and_never_ends(slow, monkeypatch):
    monkeypatch.setattr(bodies, "STOP_SECONDS", 0.2)
    _, port, server = slow
    with connect(port) as begun:
        begin(begun, b'{"value": 1}', 5)
        with connect(port) as other:  # by now the first one is begun
            assert ask(other, "GET", "/health").status == 200
        started = time.monotonic()
        server.should_exit = True
        answer = read(begun)
        assert answer.status == 408 and "before the server stops" in answer.body["error"]
        assert 0.2 <= time.monotonic() - started < 5


def test_a_body_that_never_ends_is_given_up(slow, monkeypatch):
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    _, port, _ = slow
    with connect(port) as begun:
        begin(begun, b'{"value": 1}', 5)
        answer = read(begun)
        assert answer.status == 408 and "within 0.2 seconds" in answer.body["error"]
        assert answer.headers["connection"] == "close"
    with connect(port) as other:
        assert ask(other, "GET", "/health").status == 200


def test_what_takes_too_long_to_compute_hears_that_the_server_stops(slow):
    served, port, server = slow
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(post, port, 3)
        assert served.busy.wait(30)
        server.should_exit = True
        answer = asked.result()  # after the 2 seconds of the fixture; the model goes on
        assert answer.status == 503 and "before the server stops" in answer.body["error"]


def test_help_states_the_limits(capsys):
    status, out, _ = call(serve, capsys, "--help")
    assert status == 0
    stated = set(re.findall(r"\d[\d,]*(?<=\d)", out[out.index("limits:") :]))
    numbers = (bodies.MAX_BODY, reading.MAX_POINTS, reading.MAX_TOP_K, reading.MAX_ANSWERS)
    numbers += (worker.BATCH, worker.MAX_WAITING, serve.GRACE)
    assert {f"{number:,}" for number in numbers} <= stated
    assert {f"{bodies.BODY_SECONDS:g}", f"{bodies.STOP_SECONDS:g}"} <= stated


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_after_what_it_has_begun(model, tmp_path, number):
    xmc.save(model, tmp_path / "model")
    body = json.dumps({"texts": ["fruit1"]}).encode()
    with (
        serving(tmp_path / "model", tmp_path / "log") as started,
        connect(started.port) as begun,
        connect(started.port) as left,
    ):
        left.putrequest("POST", "/predict")
        left.putheader("Content-Length", "1000")
        left.endheaders(b"{")  # and never any more
        begun.putrequest("POST", "/predict")
        begun.putheader("Content-Length", str(len(body)))
        begun.endheaders(body[:5])
        assert started.ask("GET", "/health").status == 200  # by now the other one is begun
        started.process.send_signal(number)
        deadline = time.monotonic() + 30
        while True:  # until nobody new is let in
            try:
                started.ask("GET", "/health")
            except OSError:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert started.process.poll() is None
        begun.send(body[5:])
        answer = read(begun)
        assert answer.status == 200 and len(answer.body["predictions"]) == 1
        assert started.process.wait(timeout=20) == 0
    assert started.log.read_text() == ""
