"""The page beside searching: filters that it offers, several indexes at once, and what was taught,
taken along. In this process; `test_browser.py` uses it as a person does."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from search_page import ROWS, D, Sender, save
from small_index import TINY
from starlette.testclient import TestClient

from sparse_jax import search
from sparse_jax.commands import search as search_command
from sparse_jax.commands import serve
from sparse_jax.commands.serve import filters

# ----------------------------------------------------------------------------------------- filters


def found(client: TestClient, **params: str) -> list[str]:
    text = client.get("/", params={"q": "red apple", **params}).text
    return sorted(re.findall(r'class="score">(d\d+),', text))


def test_fields_and_values_are_offered(client, served):
    text = client.get("/").text
    assert '<select id="f0" name="is.kind">' in text
    assert '<option value="&quot;a&quot;">a (20)</option>' in text
    assert 'name="from.year" inputmode="decimal" placeholder="1990"' in text
    assert 'name="to.year" inputmode="decimal" placeholder="2029"' in text
    assert 'name="eq.to" list=' in text and '<option value="P7">' in text
    served.index.insert([D("new", "red apple", metadata={"kind": '"><b>c', "new": True})])
    text = client.get("/").text
    assert "&gt;&lt;b&gt;c (1)" in text and "<b>c" not in text
    assert '<option value="true">yes (1)</option>' in text


def test_choices_filter(client):
    assert found(client, **{"from.year": "2000", "to.year": "2002"}) == ["d10", "d11", "d12"]
    both = {"from.year": "2000", "to.year": "2002", "is.kind": '"a"', "eq.to": "P12"}
    assert found(client, **both) == ["d12"]
    assert found(client, where="year>2027", **{"is.kind": '"a"'}) == ["d38"]
    text = client.get("/", params={"q": "red", **both}).text
    assert '<option value="&quot;a&quot;" selected>' in text and "<details open>" in text
    like = html.unescape(re.search(r'<a href="(/\?[^"]*like=[^"]*)"', text)[1])
    assert "is.kind=" in like  # it stays
    form = {**both, "q": "red apple", "id": "d12"}
    form["token"] = Sender(client).token
    after = client.post("/upvote", data=form).text
    assert "Learned" in after and re.findall(r'class="score">(d\d+),', after) == ["d12"]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"is.kind": "["}, "must be a number or a value"),
        ({"from.year": "[1]"}, "must be a number or a value"),
        ({"from.year": "2000", "where": "year>=1990"}, "is asked for as well"),
        ({"from.year": "soon"}, "must be a number or a value"),
        ({"is.nobody": "1"}, "no document has the metadata"),
        ({"is.<b>": "1"}, "no document has the metadata"),
    ],
)
def test_wrong_choices_are_explained(client, params, said):
    answer = client.get("/", params={"q": "red", **params})
    assert answer.status_code == 400 and said in answer.text and "<b>" not in answer.text


def test_a_choice_means_a_value_of_json():
    assert filters.wanted("", {"is.n": "true"})["n"] == {"=": True}
    assert filters.wanted("", {"eq.n": "3"})["n"] == {"in": ["3", 3]}
    assert filters.chosen({"is.": "1", "is.a": " ", "q": "x", "to.b": " 2 "}) == {"to.b": "2"}


# --------------------------------------------------------------------------------- several indexes


def test_several_at_once(tmp_path, capsys, monkeypatch):
    save(tmp_path / "x" / "a b", [D("p", "red apples grow")])
    save(tmp_path / "y" / "a b", [D("q", "blue boats float")])
    apps = []

    def ask(app: Any, listener: Any) -> None:
        listener.close()
        client = TestClient(app, base_url="http://127.0.0.1:8765")
        health = client.get("/health").json()
        assert [m["name"] for m in health["models"]] == ["a-b", "a-b-2"] and "kind" not in health
        body = {"queries": ["boats"]}
        for model, id in zip(health["models"], "pq", strict=True):
            assert client.post(model["path"], json=body).json()["results"][0]["ids"] == [id]
        first = client.get("/")
        assert first.url.path == "/models/a-b/"
        assert first.text.count("aria-current") == 1 and 'href="/models/a-b-2/"' in first.text
        second = Sender(client, "/models/a-b-2")
        assert second.send({"c.txt": b"green leaves"})["total"] == 2
        teach = {"token": second.token, "source": "ship", "target": "boats"}
        after = client.post("/models/a-b-2/associate", data=teach)
        assert "Learned" in after.text and after.url.path == "/models/a-b-2/"
        # One index's token is no key to another's.
        assert client.post("/models/a-b/associate", data=teach).status_code == 403
        lost = client.post("/search", json=body)
        assert lost.status_code == 404 and "POST /models/a-b/search" in lost.json()["error"]
        apps.append(app)

    monkeypatch.setattr(serve, "run", ask)
    places = [str(tmp_path / x / "a b") for x in "xy"]
    assert serve.main([*places, "--port", "0"]) == 0 and apps
    with search.load(places[1]) as again:  # closed, and kept
        assert len(again) == 2
    assert serve.main([places[0], str(tmp_path / "no"), "--port", "0"]) == 2
    assert "nothing" in capsys.readouterr().err
    search.load(places[0]).close()  # the first was closed when the second could not be opened


def test_one_alone_has_both_addresses(client):
    body = {"queries": ["red"], "top_k": 1}
    assert (
        client.post("/search", json=body).json()
        == client.post("/models/model/search", json=body).json()
    )
    assert client.get("/health").json()["models"][0]["path"] == "/models/model/search"


def test_a_new_index_begins_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "fit", lambda d, config=TINY, fit=search.fit: fit(d, config=config))

    def ask(app: Any, listener: Any) -> None:
        listener.close()
        client = TestClient(app, base_url="http://127.0.0.1:8765")
        assert "Nothing is indexed yet" in client.get("/").text
        assert client.get("/", params={"q": "anything"}).status_code == 200
        now = Sender(client).send({"a.txt": b"red apples", "b.txt": b"blue boats"})
        assert now["total"] == 2 and "Nothing is indexed yet" not in client.get("/").text

    monkeypatch.setattr(serve, "run", ask)
    assert serve.main(["--new", str(tmp_path / "n"), "--port", "0"]) == 0
    with search.load(tmp_path / "n", read_only=True) as index:
        whole = search.fit(index._documents.living(), config=TINY)
        assert index.search("red boats") == whole.search("red boats")
    monkeypatch.setattr(serve, "run", lambda app, listener: listener.close())
    assert serve.main(["--new", str(tmp_path / "n"), "--port", "0"]) == 0  # it stays as it is
    assert len(search.load(tmp_path / "n", read_only=True)) == 2


# ---------------------------------------------------------------------------------------- feedback


def test_what_was_taught_is_taken_along(client, served, tmp_path, capsys):
    index = served.index
    index.upvote("ship", "d3")
    index.undo(index.upvote("undone", "d4"))
    index.associate("“quoted”\n", "apple")
    index.save()
    index.upvote("gone", "d5")
    answer = client.get("/feedback.jsonl")
    assert "attachment" in answer.headers["content-disposition"]
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert [tuple(line.values()) for line in lines] == [
        ("upvote", "ship", "d3"),
        ("associate", "“quoted”\n", "apple"),
        ("upvote", "gone", "d5"),
    ]
    place = tmp_path / "other"
    save(place, [row for row in ROWS if row.id != "d5"])
    (tmp_path / "f.jsonl").write_text(answer.text, encoding="utf-8")
    assert search_command.main(["feedback", str(place), "--from", str(tmp_path / "f.jsonl")]) == 0
    assert "2 lessons learned; 1 left out" in capsys.readouterr().out
    assert search_command.main(["feedback", str(place)]) == 0
    assert [json.loads(x) for x in capsys.readouterr().out.splitlines()] == lines[:2]
    with search.load(place, read_only=True) as other:
        assert other.search("ship", k=1)[0].id == "d3"
    (tmp_path / "f.jsonl").write_text('{"do": "upvote", "query": "x"}\n')
    assert search_command.main(["feedback", str(place), "--from", str(tmp_path / "f.jsonl")]) == 2
    assert "f.jsonl, line 1: must be" in capsys.readouterr().err


def test_the_browser_is_told_what_a_page_may_do(client):
    for path, kind in (
        ("/", "text/html"),
        ("/page.js", "text/javascript"),
        ("/page.css", "text/css"),
    ):
        answer = client.get(path)
        assert answer.headers["content-type"].startswith(kind) and answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
