"""Files sent to the search page: read as the command does, refused, stopped, one at a time."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from search_page import Sender

from sparse_jax import search
from sparse_jax.commands.serve import page, uploads
from sparse_jax.commands.serve.reading import Refusal
from sparse_jax.search import documents


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
