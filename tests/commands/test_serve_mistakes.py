"""Serving over real connections: whatever is wrong with a request is said in JSON."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import (
    WORDS,
    ask,
    connect,
    fit_named,
    read,
    serving_classifier,
)
from starlette.testclient import TestClient

from sparse_jax.commands import serve
from sparse_jax.commands.serve import api, bodies
from sparse_jax.commands.serve.classifier import Classifier
from sparse_jax.commands.serve.reading import MAX_ANSWERS, MAX_POINTS, MAX_TOP_K


@pytest.fixture(scope="module")
def model():
    return fit_named()


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with serving_classifier(model, tmp_path_factory.mktemp("served")) as started:
        yield started


TEXTS = {"texts": ["fruit1"]}
WRONG: list[tuple[Any, int, str]] = [
    (b"", 400, "body"),
    (b"{", 400, "body"),
    (b"\xff\xfe{}", 400, "body"),
    (b"texts=red", 400, "body"),
    (b"\x00" * 100, 400, "body"),
    (b'{"texts": ["a"]} more', 400, "body"),
    (b"[" * 200_000, 400, "body"),
    (b'{"features":' * 100_000, 400, "body"),
    (b'{"top_k": ' + b"9" * 5000 + b"}", 400, "body"),
    (b'{"features": [{"fruit1": NaN}]}', 400, "body"),
    (b'{"features": [{"fruit1": -Infinity}]}', 400, "body"),
    (b'{"texts": ["a"], "texts": ["b"]}', 400, "body"),
    (b"null", 422, "body"),
    (b"[]", 422, "body"),
    (b'"texts"', 422, "body"),
    ({}, 422, "body"),
    ({"top_k": 3}, 422, "body"),
    ({"texts": ["a"], "features": [{}]}, 422, "body"),
    ({"texts": None}, 422, "texts"),
    ({"texts": "red"}, 422, "texts"),
    ({"texts": {"0": "red"}}, 422, "texts"),
    ({"texts": [1]}, 422, "texts[0]"),
    ({"texts": ["a", None]}, 422, "texts[1]"),
    ({"texts": ["a", ["b"]]}, 422, "texts[1]"),
    (b'{"texts": ["\\ud800"]}', 422, "texts[0]"),
    ({"texts": ["a"] * (MAX_POINTS + 1)}, 422, "texts"),
    ({"texts": ["a"] * 200, "top_k": 1 + MAX_ANSWERS // 200}, 422, "top_k"),
    ({"features": {"fruit1": 1}}, 422, "features"),
    ({"features": [3]}, 422, "features[0]"),
    ({"features": [{}, None]}, 422, "features[1]"),
    ({"features": [{"fruit1": "1"}]}, 422, "features[0][fruit1]"),
    ({"features": [{"fruit1": True}]}, 422, "features[0][fruit1]"),
    ({"features": [{"fruit1": None}]}, 422, "features[0][fruit1]"),
    ({"features": [{"fruit1": [1]}]}, 422, "features[0][fruit1]"),
    ({"features": [{"fruit1": 1e39}]}, 422, "features[0][fruit1]"),
    ({"features": [{"fruit1": 10**400}]}, 422, "features[0][fruit1]"),
    (b'{"features": [{"fruit1": 1e999}]}', 422, "features[0][fruit1]"),
    ({"features": [{"fruit1": -1}]}, 422, "features[0][fruit1]"),
    ({"features": [{"unheard": "x"}]}, 422, "features[0][unheard]"),
    ({"features": [{"ids": [1], "values": []}]}, 422, "features[0].values"),
    ({"features": [{"ids": [1, 1], "values": [1, 2]}]}, 422, "features[0]"),
    ({"features": [{"ids": [-1], "values": [1]}]}, 422, "features[0].ids"),
    ({"features": [{"ids": [1.5], "values": [1]}]}, 422, "features[0].ids"),
    ({"features": [{"ids": ["1"], "values": [1]}]}, 422, "features[0].ids"),
    ({"features": [{"ids": [True], "values": [1]}]}, 422, "features[0].ids"),
    ({"features": [{"ids": [1], "values": ["x"]}]}, 422, "features[0].values[0]"),
    ({**TEXTS, "top_k": 0}, 422, "top_k"),
    ({**TEXTS, "top_k": -3}, 422, "top_k"),
    ({**TEXTS, "top_k": 2.0}, 422, "top_k"),
    ({**TEXTS, "top_k": "3"}, 422, "top_k"),
    ({**TEXTS, "top_k": True}, 422, "top_k"),
    ({**TEXTS, "top_k": None}, 422, "top_k"),
    ({**TEXTS, "top_k": MAX_TOP_K + 1}, 422, "top_k"),
    ({**TEXTS, "top_k": 10**300}, 422, "top_k"),
    ({**TEXTS, "threshold": 1.5}, 422, "threshold"),
    ({**TEXTS, "threshold": -0.1}, 422, "threshold"),
    ({**TEXTS, "threshold": "0.5"}, 422, "threshold"),
    (b'{"texts": ["a"], "threshold": 1e999}', 422, "threshold"),
    ({**TEXTS, "treshold": 0.5}, 422, "treshold"),
    ({**TEXTS, "\ud800": [0.5]}, 422, "\ud800"),
    ({**TEXTS, "x" * 100_000: {"y": 1}}, 422, "x" * 60),
]


@pytest.mark.parametrize(("body", "status", "argument"), WRONG)
def test_mistakes_are_explained(server, body, status, argument):
    answer = server.ask("POST", "/predict", body)
    assert answer.status == status, answer
    assert answer.body["argument"] == argument
    assert set(answer.body) == {"error", "argument", "value", "cure"}
    assert "must " in answer.body["error"] and answer.body["error"].endswith(answer.body["cure"])
    assert len(json.dumps(answer.body)) < 1200
    assert "Traceback" not in answer.body["error"] and ".py" not in answer.body["error"]


def test_unknown_paths_and_methods(server):
    for path in (
        "/",
        "/predict/",
        "/search",
        "/../etc/passwd",
        "/%00",
        "/health/x",
        "/" + "x" * 900,
    ):
        answer = server.ask("POST", path, TEXTS)
        assert answer.status == 404 and answer.body["argument"] == "path"
        assert "POST /predict" in answer.body["cure"]
    for method, path, allowed in (("GET", "/predict", "POST"), ("DELETE", "/health", "GET, HEAD")):
        answer = server.ask(method, path)
        assert answer.status == 405 and answer.body["argument"] == "method"
        assert sorted(answer.headers["allow"].split(", ")) == sorted(allowed.split(", "))
    assert server.ask("POST", "/health", TEXTS).status == 405


def test_what_is_no_http_ends_no_server(server):
    for sent in (b"hello\r\n\r\n", b"\x16\x03\x01" * 50, b"GET /health HTTP/9.9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
            raw.sendall(sent)
            assert b" 500 " not in raw.recv(1000)
    for sent in (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900\r\n\r\n{",
        b"P",
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as raw:
            raw.sendall(sent)  # and is gone
    assert server.ask("GET", "/health").status == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long(server, chunked):
    piece = b" " * (1 << 16)
    count = bodies.MAX_BODY // len(piece)
    with connect(server.port) as connection:
        for extra, status in ((b"", 200), (b" ", 413)):
            ending = json.dumps(TEXTS).encode()
            body = [*[piece] * (count - 1), piece[len(ending) :], ending + extra]
            if chunked:
                connection.request("POST", "/predict", iter(body), encode_chunked=True)
            else:
                connection.request("POST", "/predict", b"".join(body))
            answer = read(connection)
            assert answer.status == status
        assert answer.body["argument"] == "body" and "at most 4,194,304" in answer.body["error"]
        assert ask(connection, "GET", "/health").status == 200  # on the same connection


def test_a_length_beyond_the_limit_is_refused_before_the_body_is_sent(server):
    with connect(server.port) as connection:
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Length", str(10**15))
        connection.endheaders()
        answer = read(connection)
        assert answer.status == 413 and "1,000,000,000,000,000 bytes" in answer.body["error"]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8765", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:80", 200),
        ("evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("localhost.evil.example:80", 400),
        ("192.0.2.1", 400),
        ("a:b:c", 400),
        ("", 400),
    ],
)
def test_other_host_names_are_refused(server, host, status):
    answer = server.ask("GET", "/health", Host=host)
    assert answer.status == status
    if status == 400:
        assert answer.body["argument"] == "Host"


def test_on_another_address_names_are_refused_still():
    check = api.HostCheck(None, host="0.0.0.0")
    assert check.allows("192.0.2.1:80") and check.allows("localhost")
    assert check.allows(f"{socket.gethostname()}:80") and not check.allows("evil.example")
    assert api.HostCheck(None, host="box.lan").allows("BOX.lan:8765")


@pytest.fixture(scope="module")
def client(model):
    return TestClient(serve.make_app(Classifier(model)), base_url="http://127.0.0.1")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
POINT = st.dictionaries(st.sampled_from([*WORDS[:9], "ids", "values"]), JSON, max_size=4)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "texts": st.lists(st.text(), max_size=4) | JSON,
        "features": st.lists(POINT, max_size=4) | JSON,
        "top_k": st.integers(-1, 40) | JSON,
        "threshold": st.floats(0, 1) | JSON,
        "other": JSON,
    },
)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES | JSON)
def test_any_json_is_answered(client, body):
    answer = client.post("/predict", content=json.dumps(body).encode())
    assert answer.status_code in (200, 400, 422)
    assert ("predictions" in answer.json()) == (answer.status_code == 200)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=st.binary(max_size=100))
def test_any_bytes_are_answered(client, body):
    assert client.post("/predict", content=body).status_code in (400, 422)
