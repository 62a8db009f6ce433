"""Serving over real connections: a busy model, a failing one, and a graceful stop."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

import uvicorn
from serving import (
    ask,
    connect,
    fit_named,
    read,
    serving,
)

from sparse_jax import xmc
from sparse_jax.commands import serve
from sparse_jax.commands.serve import worker


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
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield served, listener.getsockname()[1], server
    served.go.set()
    server.should_exit = True
    thread.join()
    app.state.worker.close()


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_after_what_it_has_begun(model, tmp_path, number):
    xmc.save(model, tmp_path / "model")
    body = json.dumps({"texts": ["fruit1"]}).encode()
    with serving(tmp_path / "model", tmp_path / "log") as started, connect(started.port) as begun:
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
        assert started.process.wait(timeout=30) == 0
    assert started.log.read_text() == ""
