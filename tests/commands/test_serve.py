"""Serving over real connections: answers as by the library, load, and what is opened."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from serving import (
    NAMES,
    ask,
    connect,
    expected,
    fit_named,
    make_points,
    make_texts,
    serving,
    serving_classifier,
)
from small_index import SMALL, sample
from starlette.testclient import TestClient

from sparse_jax import data, search, xmc
from sparse_jax.commands import main as sparse_jax_main
from sparse_jax.commands import serve
from sparse_jax.commands.serve.classifier import Classifier
from sparse_jax.commands.serve.reading import MAX_POINTS
from sparse_jax.runtime import saved
from sparse_jax.search.answers import answer


@pytest.fixture(scope="module")
def model():
    return fit_named()


@pytest.fixture(scope="module")
def plain() -> xmc.Model:
    """Without names, of values that aren't counts."""
    points, _ = make_points()
    signs = np.random.default_rng(1).normal(size=points.feature_values.size).astype(np.float32)
    return xmc.fit(data.xmc.with_values(points, signs))


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    with serving_classifier(model, tmp_path_factory.mktemp("served")) as started:
        yield started


@pytest.fixture(scope="module")
def index_server(tmp_path_factory):
    place = tmp_path_factory.mktemp("index")
    with search.fit(sample(), config=SMALL) as made:
        made.save(place / "index")
    with serving(place / "index", place / "log") as started:
        yield started, search.load(place / "index", read_only=True)
    assert started.process.returncode == 0
    assert started.log.read_text() == ""


# ----------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize("top_k", [1, 5, 9, 200])
@pytest.mark.parametrize("count", [1, 8, 300])
def test_texts_are_predicted_as_by_the_library(server, model, top_k, count):
    texts = make_texts(count, seed=top_k)
    points = data.Vocabulary(model.about.feature_names).transform(texts)
    answer = server.ask("POST", "/predict", {"texts": texts, "top_k": top_k})
    assert answer.status == 200
    assert answer.body == {"predictions": expected(model, points, top_k)}
    assert len(answer.body["predictions"][0]["labels"]) == min(top_k, len(NAMES))


def test_the_threshold_leaves_out_the_unlikely(server, model):
    texts = make_texts(50, seed=7)
    points = data.Vocabulary(model.about.feature_names).transform(texts)
    answer = server.ask("POST", "/predict", {"texts": texts, "top_k": 9, "threshold": 0.5})
    assert answer.body == {"predictions": expected(model, points, 9, 0.5)}
    assert 0 < sum(len(p["labels"]) for p in answer.body["predictions"]) < 9 * 50
    nothing = server.ask("POST", "/predict", {"texts": texts, "threshold": 1})
    assert nothing.body["predictions"][0] == {"labels": [], "names": [], "scores": []}


def test_features_by_name_and_by_id(server, model):
    words = model.about.feature_names
    texts = [" ".join([words[3], words[3], words[11]]), words[0]]
    texts_answer = server.ask("POST", "/predict", {"texts": texts}).body["predictions"]
    by_name = [{words[3]: 2, words[11]: 1, "unheard": 5}, {words[0]: 1.0}]
    by_id = [{"ids": [11, 3, 10**6], "values": [1, 2, 3]}, {"ids": [0], "values": [1]}]
    for features in (by_name, by_id):
        answer = server.ask("POST", "/predict", {"features": features}).body["predictions"]
        assert [p.pop("unknown_features") for p in answer] == [1, 0]
        assert answer == texts_answer


def test_a_model_without_names_takes_ids(plain):
    client = TestClient(serve.make_app(Classifier(plain)), base_url="http://127.0.0.1")
    points = make_points()[0].take(slice(0, 20))
    values = np.linspace(-2, 2, points.feature_values.size).astype(np.float32)
    points = data.xmc.with_values(points, values)
    ends = points.feature_offsets
    features = [
        dict(zip(map(str, points.feature_ids[a:b].tolist()), values[a:b].tolist(), strict=True))
        for a, b in itertools.pairwise(ends)
    ]
    answer = client.post("/predict", json={"features": features}).json()["predictions"]
    assert all(p.pop("unknown_features") == 0 and p["names"] is None for p in answer)
    assert answer == expected(plain, points)
    refused = client.post("/predict", json={"texts": ["fruit1"]})
    assert refused.status_code == 422 and "no feature names" in refused.json()["error"]


def test_nothing_is_predicted_of_nothing(server):
    assert server.ask("POST", "/predict", {"texts": []}).body == {"predictions": []}
    empty = server.ask("POST", "/predict", {"texts": [""], "top_k": 2}).body["predictions"]
    assert len(empty[0]["labels"]) == 2  # the likeliest, where nothing is known


def test_health(server, model):
    health = server.ask("GET", "/health").body
    assert (health["status"], health["kind"], health["waiting"]) == ("ok", "xmc", 0)
    assert health["sizes"]["labels"] == len(NAMES)
    assert health["sizes"]["features"] == model.num_features
    assert health["sizes"]["bytes"] == model.nbytes()
    assert server.ask("HEAD", "/health").status == 200


@pytest.mark.slow
def test_an_index_is_searched_as_by_the_library(index_server):
    server, index = index_server
    health = server.ask("GET", "/health").body
    assert health["kind"] == "search" and health["sizes"] == {"documents": 400}
    queries = [document.text[:80] for document in sample()[:30]]
    answer = server.ask("POST", "/search", {"queries": queries, "top_k": 3})
    assert answer.status == 200
    for got, hits in zip(answer.body["results"], index.search_batch(queries, k=3), strict=True):
        assert got["ids"] == [hit.id for hit in hits] and len(got["ids"]) == 3
        assert got["scores"] == pytest.approx([hit.score for hit in hits], abs=1e-5)
        assert got["matched"] == [hit.words for hit in hits] and got["is_matched"] is True
    assert server.ask("POST", "/search", {"queries": []}).body == {"results": []}
    (unseen,) = server.ask("POST", "/search", {"queries": ["zzzz qqqq"]}).body["results"]
    assert unseen["is_matched"] is False and unseen["matched"] == [[]] * 10
    page = server.ask("GET", "/?q=documentation")
    assert page.status == 200 and "Search 400 documents" in page.body


@pytest.mark.slow
def test_questions_are_answered_as_by_the_library(index_server):
    server, index = index_server
    questions = [document.text[:60] for document in sample()[:20]] + ["zzzz qqqq?"]
    reply = server.ask("POST", "/ask", {"questions": questions, "top_k": 3, "max_words": 20})
    assert reply.status == 200
    for got, question in zip(reply.body["answers"], questions, strict=True):
        found = answer(index, question, k=3, max_words=20)
        assert got["answer"] == (found.text or None) and got["missing"] == list(found.missing)
        assert got["passages"]["ids"] == [passage.id for passage in found.passages]
        assert got["written"] is None and got["question"] == question
    assert got["answer"] is None and reply.body["answers"][0]["answer"]
    wrong = server.ask("POST", "/ask", {"questions": ["red", 3]})
    assert wrong.status == 422 and wrong.body["argument"] == "questions[1]"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "argument"),
    [
        ({}, "queries"),
        ({"queries": "red"}, "queries"),
        ({"queries": ["red", 3]}, "queries[1]"),
        ({"queries": ["red", "?!"]}, "queries[1]"),
        ({"queries": ["x" * 20_000]}, "queries[0]"),
        ({"queries": ["\ud800 red"]}, "queries[0]"),
        ({"queries": ["red"] * (MAX_POINTS + 1)}, "queries"),
        ({"queries": ["red"], "top_k": 0}, "top_k"),
        ({"queries": ["red"], "threshold": 0.5}, "threshold"),
    ],
)
def test_mistaken_searches(index_server, body, argument):
    answer = index_server[0].ask("POST", "/search", body)
    assert answer.status == 422 and answer.body["argument"] == argument


# -------------------------------------------------------------------------------------------- load


def test_load(server, model, capsys):
    """16 clients with 40 requests each: all are answered, rightly, and health is seen to."""
    clients, requests = 16, 40
    texts = make_texts(200, seed=3)
    points = data.Vocabulary(model.about.feature_names).transform(texts)
    right = {k: expected(model, points, k) for k in (3, 5)}
    deadline = time.monotonic() + 120
    done = threading.Event()

    def client(number: int) -> tuple[list[float], int]:
        rng = np.random.default_rng(number)
        seconds, wrong = [], 0
        with connect(server.port) as connection:
            for _ in range(requests):
                assert time.monotonic() < deadline
                first, count, k = rng.integers(0, 190), rng.integers(1, 9), int(rng.choice([3, 5]))
                asked = {"texts": texts[first : first + count], "top_k": k}
                start = time.perf_counter()
                answer = ask(connection, "POST", "/predict", asked)
                seconds.append(time.perf_counter() - start)
                wrong += answer.status != 200
                wrong += answer.body != {"predictions": right[k][first : first + count]}
        return seconds, wrong

    def watch() -> list[float]:
        seconds = []
        with connect(server.port) as connection:
            while not done.is_set():
                start = time.perf_counter()
                assert ask(connection, "GET", "/health").body["status"] == "ok"
                seconds.append(time.perf_counter() - start)
                done.wait(0.01)
        return seconds

    with ThreadPoolExecutor(clients + 1) as pool:
        watching = pool.submit(watch)
        start = time.perf_counter()
        try:
            found = list(pool.map(client, range(clients)))
        finally:
            wall = time.perf_counter() - start
            done.set()
        health = watching.result()
    seconds = np.concatenate([one for one, _ in found]) * 1e3
    assert seconds.size == clients * requests and sum(wrong for _, wrong in found) == 0
    p50, p99 = np.percentile(seconds, [50, 99])
    with capsys.disabled():
        print(
            f"\nserve: {seconds.size} requests by {clients} clients, 0 errors, p50 {p50:.1f} ms, "
            f"p99 {p99:.1f} ms, {seconds.size / wall:.0f} requests/s; "
            f"/health at worst {1e3 * max(health):.1f} ms of {len(health)}"
        )


# ----------------------------------------------------------------------------------------- opening


def test_what_is_not_served_is_named(tmp_path, capsys):
    saved.save(tmp_path / "lm", kind="lm", config={}, arrays={"w": np.ones(1)})
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "model.json").write_text("{")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "manifest.json").write_text("{}")
    for name, found in (
        ("lm", "a model of kind 'lm'"),
        ("other", "no model"),
        ("other/notes.txt", "a file"),
        ("nowhere", "nothing"),
        ("damaged", "can't be read"),
        ("half", "damaged"),
    ):
        assert sparse_jax_main.main(["serve", str(tmp_path / name), "--port", "0"]) == 2
        error = capsys.readouterr().err
        assert found in error and str(tmp_path / name) in error and len(error) < 600
        if "damaged" not in found and "can't" not in found:
            assert "xmc, a classifier" in error and "search, an index" in error
    assert not (tmp_path / "nowhere").exists()
    # The script makes an index of a sample where there is nothing, but not among other things.
    assert serve.main([str(tmp_path / "other")], sample=True) == 2
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["notes.txt"]


def test_the_command_line(model, tmp_path, capsys, monkeypatch):
    xmc.save(model, tmp_path / "model")
    seen = []
    monkeypatch.setattr(serve, "run", lambda app, listener: (seen.append(app), listener.close()))
    place = str(tmp_path / "model")
    assert sparse_jax_main.main(["serve", place, "--port", "0"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("http://127.0.0.1:") and told.err == "" and len(seen) == 1
    monkeypatch.setattr(serve, "_listen", lambda *_: socket.create_server(("127.0.0.1", 0)))
    assert serve.main([place, "--host", "0.0.0.0", "--port", "0"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("http://0.0.0.0:") and told.err.startswith("warning: --host 0.0.0.0")
    monkeypatch.undo()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert serve.main([place, "--port", port]) == 2
        assert f"--port {port}: can't listen" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        serve.main([place, "--port", "65536"])


@pytest.mark.slow
def test_the_script_makes_a_sample_where_there_is_none(tmp_path, monkeypatch, capsys):
    init = search.fit
    monkeypatch.setattr(search, "fit", lambda documents: init(documents[:30], config=SMALL))
    monkeypatch.setattr(serve, "run", lambda app, listener: listener.close())
    monkeypatch.chdir(tmp_path)
    assert serve.main(["--port", "0"]) == 0
    assert "making one of the sample" in capsys.readouterr().out
    assert (Path("search-index") / "manifest.json").exists()
    assert serve.main(["search-index", "--port", "0"]) == 0
    assert "sample" not in capsys.readouterr().out
    assert serve.main(["named", "--port", "0"], sample=True) == 0
    assert Path("named").exists()
