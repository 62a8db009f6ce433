"""The page beside searching: files that it takes, filters that it offers, several indexes at once,
and what was taught, taken along. In this process; `test_browser.py` uses it as a person does."""

from __future__ import annotations

import html
import json
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from small_index import TINY
from starlette.testclient import TestClient

from sparse_jax import search
from sparse_jax.commands import search as search_command
from sparse_jax.commands import serve
from sparse_jax.commands.serve import filters, page, uploads
from sparse_jax.commands.serve.index import SearchIndex
from sparse_jax.commands.serve.reading import Refusal
from sparse_jax.search import documents

D = search.Document
ROWS = [
    D(f"d{n}", f"red apple {n}", metadata={"year": 1990 + n, "kind": "ab"[n % 2], "to": f"P{n}"})
    for n in range(40)
]


def save(place: Path, rows: list[search.Document] = ROWS) -> Path:
    with search.fit(rows, config=TINY) as made:
        made.save(place)
    return place


@pytest.fixture
def served(tmp_path):
    one = SearchIndex(search.load(save(tmp_path / "i")))
    yield one
    one.close()


@pytest.fixture
def client(served):
    return TestClient(serve.make_app(served), base_url="http://127.0.0.1:8765")


class Sender:
    """Sends files as the page's script does."""

    def __init__(self, client: TestClient, base: str = "") -> None:
        self.client, self.base = client, base
        home = client.get(f"{base}/").text
        self.token = re.search(r'name="token" value="([^"]+)"', home)[1]

    def ask(self, method: str, door: str, content: bytes = b"", **params: str) -> Any:
        headers = {"X-Token": self.token}
        door = self.base + door
        return self.client.request(method, door, content=content, params=params, headers=headers)

    def send(self, files: dict[str, bytes], **params: str) -> dict[str, Any]:
        """How an upload of these files ends."""
        name = self.ask("POST", "/uploads").json()["upload"]
        for path, content in files.items():
            answer = self.ask("PUT", f"/uploads/{name}", content, path=path)
            assert answer.status_code == 200, answer.text
        assert self.ask("POST", f"/uploads/{name}", **params).status_code == 200
        return self.wait(name)

    def wait(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            now = self.ask("GET", f"/uploads/{name}").json()
            if now["state"] not in ("receiving", "reading", "adding", "learning"):
                return now
            time.sleep(0.01)
        raise AssertionError(f"still {now}")


# ----------------------------------------------------------------------------------------- uploads


def test_a_folder_is_read_as_the_command_reads_it(client, served, tmp_path):
    sent = {
        "notes/zebra.txt": b"Zebras have stripes.",
        "notes/deep/straße.txt": "Die Straße ist lang.".encode(),
        "notes/cut.pdf": b"%PDF-1.4 and no more",
        "notes/picture.png": b"\x89PNG",
    }
    now = Sender(client).send(sent)
    assert (now["state"], now["documents"], now["total"]) == ("done", 2, 42)
    assert any("cut.pdf" in line for line in now["report"])
    for path, content in sent.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    read = documents.read(tmp_path / "notes")
    assert now["report"] == read.report()
    assert [served.index.get(d.id) for d in read.documents] == read.documents
    served.close()  # on the disk, too
    with search.load(tmp_path / "i", read_only=True) as again:
        assert again.search("stripes", k=1)[0].id == "zebra.txt" and len(again) == 42


def test_a_table_and_loose_files(client, served):
    sender = Sender(client)
    table = b"key;headline;body;colour\nk1;Skies;They are wide;blue\nk2;Seas;They are deep;blue\n"
    assert sender.send({"mine.csv": table})["documents"] == 2
    assert served.index.get("k2").metadata == {"colour": "blue"}
    now = sender.send({"a.txt": b"alpha text", "b.txt": b"beta text"})
    assert now["total"] == 44 and served.index.get("b.txt").text == "beta text"


def test_ids_that_are_taken(client, served):
    sender = Sender(client)
    page_one = b"# One\n\nFirst words.\n\n# Two\n\nSecond words.\n"
    assert sender.send({"f/p.md": page_one, "f/q.txt": b"other"})["documents"] == 3
    refused = sender.send({"f/p.md": b"# One\n\nNew words.\n", "f/q.txt": b"other"})
    assert refused["state"] == "failed" and "is already in the index" in refused["error"]
    assert served.index.get("p.md").text == "First words." and len(served.index) == 43
    now = sender.send({"f/p.md": b"# One\n\nNew words.\n", "f/q.txt": b"other"}, replace="1")
    assert now["state"] == "done" and served.index.get("p.md").text == "New words."
    assert now["total"] == 42  # the section that is gone went


def test_what_fails_adds_nothing_and_says_why(client, served, tmp_path):
    sender = Sender(client)
    bad = b'{"id": "x", "text": "fine"}\n{"id": "y", "text": 5}\n'
    now = sender.send({"bad.jsonl": bad})
    assert now["state"] == "failed" and now["error"].startswith("bad.jsonl, line 2: text = 5")
    assert sender.send({"picture.png": b"\x89PNG\x00\x01"})["state"] == "failed"
    assert len(served.index) == 40
    assert sender.send({"good.txt": b"good words"})["state"] == "done"


@pytest.mark.parametrize(
    "path",
    ["", "/etc/x", "../x", "a/../x", "a//b", ".", "a\\b", "a\0b", "x" * 201, "a/" * 40 + "b"],
)
def test_paths_lead_nowhere_else(client, path):
    sender = Sender(client)
    name = sender.ask("POST", "/uploads").json()["upload"]
    answer = sender.ask("PUT", f"/uploads/{name}", b"x", path=path)
    assert answer.status_code == 422 and answer.json()["argument"] == "path"


def test_limits(client, served, monkeypatch):
    monkeypatch.setattr(page, "MAX_FILE", 50)
    monkeypatch.setattr(uploads, "MAX_FILES_BYTES", 60)
    monkeypatch.setattr(uploads, "MAX_FILES", 3)
    sender = Sender(client)
    name = sender.ask("POST", "/uploads").json()["upload"]

    def put(path: str, size: int) -> int:
        return sender.ask("PUT", f"/uploads/{name}", b"x" * size, path=path).status_code

    assert sender.ask("POST", f"/uploads/{name}").json()["argument"] == "files"
    assert put("a", 51) == 413 and put("a", 50) == 200
    assert put("b", 11) == 413 and put("b", 10) == 200
    assert put("b", 0) == 422 and put("b/c", 0) in (422, 507)  # there is a file of that name
    assert put("c", 0) == 200 and put("d", 0) == 422
    assert sender.ask("GET", f"/uploads/{name}").json()["files"] == 3


def test_strangers_send_nothing(client, served):
    sender = Sender(client)
    name = sender.ask("POST", "/uploads").json()["upload"]
    sender.token = "guessed"
    for method, path in (
        ("POST", "/uploads"),
        ("PUT", f"/uploads/{name}"),
        ("DELETE", "/uploads/x"),
    ):
        assert sender.ask(method, path, path="a.txt").status_code == 403
    fine = Sender(client)
    assert fine.ask("PUT", "/uploads/other", b"x", path="a.txt").status_code == 404
    assert fine.ask("PUT", f"/uploads/{name}", b"x", path="a.txt").status_code == 200
    newer = fine.ask("POST", "/uploads").json()["upload"]  # the page was loaded again meanwhile
    assert fine.ask("POST", f"/uploads/{name}").status_code == 404 and newer != name


class Gate:
    """Holds reading until a test lets it go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = threading.Event(), threading.Event()
        read = documents.read

        def slow(path: Path, *, progress: Any) -> Any:
            self.reached.set()
            assert self.go.wait(30)
            return read(path, progress=progress)

        monkeypatch.setattr(documents, "read", slow)


def reading(client, monkeypatch):
    """An upload that is being read until the gate opens: (gate, sender, its name)."""
    gate, sender = Gate(monkeypatch), Sender(client)
    name = sender.ask("POST", "/uploads").json()["upload"]
    sender.ask("PUT", f"/uploads/{name}", b"words", path="a.txt")
    sender.ask("POST", f"/uploads/{name}")
    assert gate.reached.wait(30)
    return gate, sender, name


def test_one_at_a_time_and_cancelled(client, served, monkeypatch):
    gate, sender, name = reading(client, monkeypatch)
    place = Path(served.uploads._place.name)
    assert place.exists() and sender.ask("POST", "/uploads").status_code == 409
    assert client.get("/", params={"q": "red apple"}).status_code == 200  # meanwhile
    assert sender.ask("DELETE", f"/uploads/{name}").json()["state"] == "reading"
    gate.go.set()
    assert sender.wait(name)["state"] == "cancelled" and len(served.index) == 40
    served.uploads._thread.join()
    assert not place.exists()
    waiting = sender.ask("POST", "/uploads").json()["upload"]
    assert sender.ask("DELETE", f"/uploads/{waiting}").json() == {"state": "cancelled"}


def test_a_stop_ends_what_is_read(client, served, monkeypatch):
    gate, *_ = reading(client, monkeypatch)
    closing = threading.Thread(target=served.uploads.close)
    closing.start()
    gate.go.set()
    closing.join(30)
    assert not closing.is_alive() and served.uploads.status()["state"] == "cancelled"
    with pytest.raises(Refusal, match="before the server stops"):
        served.uploads.begin()


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
