"""Answers that a served language model writes: over JSON, on the page, and the thumbs on them."""

from __future__ import annotations

import contextlib
import html
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from search_page import D, save
from small_index import run_search
from small_writer import save_model
from starlette.testclient import TestClient

from sparse_jax import search
from sparse_jax.commands import serve
from sparse_jax.commands.serve import asking
from sparse_jax.commands.serve.index import SearchIndex
from sparse_jax.commands.serve.models import open_model
from sparse_jax.commands.serve.writer import Writer
from sparse_jax.search.thumbs import FILE, read_thumbs

ROWS = [
    D("a", "Glim is a red stone. Old men dig it. They sell it.", "Glim"),
    D("b", "Blue glim is a gem. Kings wear it. <b>Thieves</b> & wives steal it.", "Glim"),
    D("c", "Of glass and tin this says nothing, but it stands in the index.", "Tin"),
]
ASKED = "What is glim?"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("written") / "i", ROWS)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("lm") / "m", [row.text for row in ROWS])


@pytest.fixture(scope="module")
def writer(model) -> Writer:
    return Writer(str(model), 2)


@contextlib.contextmanager
def opened(place: Path, writer: Writer | None = None) -> Any:
    """A client of an index that is served."""
    served = open_model(place, writer)
    app = serve.make_app(served)
    try:
        yield TestClient(app, base_url="http://127.0.0.1:8765")
    finally:
        app.state.close()
        served.close()


@pytest.fixture
def client(place, writer, tmp_path):
    with opened(shutil.copytree(place, tmp_path / "i"), writer) as one:
        yield one


# -------------------------------------------------------------------------------------------- JSON


def test_answers_over_json_are_those_of_the_command(place, model, writer, capsys):
    questions = [ASKED, "Who wear glim?", "Who built the telescope?"]
    for more, wrote in (([], None), (["--model", model], writer)):
        with opened(place, wrote) as client:
            reply = client.post("/ask", json={"questions": questions, "top_k": 2, "max_words": 9})
        assert reply.status_code == 200 and list(reply.json()) == ["answers"]
        for question, got in zip(questions, reply.json()["answers"], strict=True):
            asked = ["ask", place, question, "--json", "-k", "2", "--max-words", "9", *more]
            head, *passages = map(json.loads, run_search(capsys, *asked).splitlines())
            found = got.pop("passages")
            assert got == head and (got["written"] is None) == (wrote is None or not got["source"])
            assert found["ids"] == [row["id"] for row in passages] and len(found["ids"]) == 2
            assert found["matched"] == [row["matched"] for row in passages]
    assert got["answer"] is None and got["missing"] == ["built", "telescope"]


def test_requests_that_wait_are_answered_together_each_by_its_own_limits(place):
    with search.load(place, read_only=True) as index:
        served = asking.Ask(index, None)
        requests = [
            served.read({"questions": [ASKED], "top_k": 1, "max_words": 4}),
            served.read({"questions": []}),
            served.read({"questions": [ASKED, "tin"], "top_k": 3}),
        ]
        together = served.answer(requests)
        assert together == [served.answer([one])[0] for one in requests]
    assert [len(a["passages"]["ids"]) for one in together for a in one["answers"]] == [1, 3, 3]
    assert together[0]["answers"][0]["answer"].endswith(" …") and together[1] == {"answers": []}


@pytest.mark.parametrize(
    ("body", "argument"),
    [
        ({}, "questions"),
        ({"questions": ASKED}, "questions"),
        ({"questions": [ASKED, 3]}, "questions[1]"),
        ({"questions": [ASKED, "?!"]}, "questions[1]"),
        ({"questions": ["x" * 20_000]}, "questions[0]"),
        ({"questions": ["x"] * (asking.MAX_QUESTIONS + 1)}, "questions"),
        ({"questions": ["x"], "top_k": 0}, "top_k"),
        ({"questions": ["x"], "top_k": asking.MAX_PASSAGES + 1}, "top_k"),
        ({"questions": ["x"], "max_words": 0}, "max_words"),
        ({"questions": ["x"], "max_words": asking.MAX_WORDS + 1}, "max_words"),
        ({"questions": ["x"], "max_words": 2.0}, "max_words"),
        ({"queries": ["x"]}, "queries"),
    ],
)
def test_mistaken_questions_are_explained(client, body, argument):
    reply = client.post("/ask", json=body)
    assert reply.status_code == 422 and reply.json()["argument"] == argument
    assert "must " in reply.json()["error"] and reply.json()["error"].endswith(reply.json()["cure"])


def test_the_routes_of_one_index_and_of_several(place, tmp_path):
    served = {"x": SearchIndex(search.load(shutil.copytree(place, tmp_path / "x")))}
    served["y"] = SearchIndex(search.load(shutil.copytree(place, tmp_path / "y")))
    app = serve.make_app(served)
    several = TestClient(app, base_url="http://127.0.0.1:8765")
    assert several.post("/models/y/ask", json={"questions": [ASKED]}).json()["answers"]
    assert [one["waiting"] for one in several.get("/health").json()["models"]] == [0, 0]
    lost = several.post("/ask", json={"questions": [ASKED]})
    assert lost.status_code == 404 and "POST /models/x/ask" in lost.json()["error"]
    app.state.close()
    for one in served.values():
        one.close()


# -------------------------------------------------------------------------------------------- page


class Forms(HTMLParser):
    """Fields of the forms for thumbs."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[dict[str, str]] = []
        self._is_in = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        about = dict(attrs)
        if tag == "form":
            self._is_in = about.get("action") == "/thumb"
            self.found += [{}] * self._is_in
        elif tag == "input" and self._is_in:
            self.found[-1] = {**self.found[-1], str(about["name"]): str(about["value"])}


def pressed(text: str) -> list[str]:
    """Names of buttons that show that they were chosen."""
    return re.findall(r'aria-pressed="true" aria-label="([^"]+)"', text)


def test_the_page_shows_what_was_written_with_sources(client, writer):
    page = client.get("/", params={"q": ASKED, "ask": "1"}).text
    (section,) = re.findall(r'<section aria-label="Written answers">(.*?)</section>', page, re.S)
    assert html.escape(writer.path) in section
    texts = [re.sub("</?mark>", "", one) for one in re.findall(r"<li><p>(.*?)</p>", section, re.S)]
    assert len(texts) == 3 == len(set(texts))
    sentences = {row.id: [html.escape(x) for x in re.split(r"(?<=\.) ", row.text)] for row in ROWS}
    listed = re.findall(r'class="score">(\w+),', page)
    for text in texts:
        pieces = re.findall(r'(.*?) <a href="#found(\d)">\[\2\]</a> ?', text)
        assert (
            pieces
            and "".join(f'{a} <a href="#found{n}">[{n}]</a> ' for a, n in pieces)[:-1] == text
        )
        for told, number in pieces:
            assert told in sentences[listed[int(number) - 1]]
    assert "<b>Thieves" not in page
    assert client.get("/", params={"q": ASKED, "ask": "1"}).text == page  # the same drafts
    for other in ({"q": ASKED}, {"q": "Who built the telescope?", "ask": "1"}):
        assert "Written answers" not in client.get("/", params=other).text


def test_thumbs_are_kept_and_shown(client, tmp_path):
    page = client.get("/", params={"q": ASKED, "ask": "1"}).text
    first, second, _ = Forms(page).found
    assert not pressed(page)
    page = client.post("/thumb", data={**first, "thumb": "up"}).text
    assert "Kept: you like this answer." in page
    page = client.post("/thumb", data={**second, "thumb": "down"}).text
    assert "Kept: you do not like this answer." in page
    assert pressed(page) == ["Thumbs up for written answer 1", "Thumbs down for written answer 2"]
    page = client.post("/thumb", data={**first, "thumb": "down"}).text  # a change of mind
    assert pressed(page)[0] == "Thumbs down for written answer 1"
    kept = read_thumbs(tmp_path / "i")
    assert [(one.question, one.answer, one.is_up) for one in kept] == [
        (ASKED, first["answer"], True),
        (ASKED, second["answer"], False),
        (ASKED, first["answer"], False),
    ]
    assert kept[0].sources == tuple(json.loads(first["sources"])) and set(kept[0].sources) <= {
        "a",
        "b",
    }


def test_thumbs_are_there_after_a_restart_and_a_new_snapshot(place, writer, tmp_path):
    again = shutil.copytree(place, tmp_path / "i")
    with opened(again, writer) as client:
        form = Forms(client.get("/", params={"q": ASKED, "ask": "1"}).text).found[2]
        client.post("/thumb", data={**form, "thumb": "up"})
    with search.load(again) as index:
        index.upvote("window", "c")
        index.save()
    with opened(again, writer) as client:
        page = client.get("/", params={"q": ASKED, "ask": "1"}).text
    assert pressed(page) == ["Thumbs up for written answer 3"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"answer": " "}, "Not kept: answer"),
        ({"sources": "{}"}, "Not kept: sources"),
        ({"sources": "["}, "Not kept: sources = '[': must be a list of ids; load the page anew"),
        ({"sources": "[" * 20_000}, "Not kept: sources"),
        ({"thumb": "sideways"}, "Not kept: thumb = 'sideways': must be up or down"),  # was a down
        ({"thumb": ""}, "Not kept: thumb = None: must be up or down"),
        ({"sources": "[3]"}, "Not kept: sources"),
        ({"q": "x" * 20_000}, "Not kept: question has 20,000"),
    ],
)
def test_what_is_no_thumb_is_refused(client, tmp_path, changed, message):
    form = Forms(client.get("/", params={"q": ASKED, "ask": "1"}).text).found[0]
    sent = {**form, "thumb": "up", **changed}
    reply = client.post("/thumb", data=sent, follow_redirects=False)
    (note,) = parse_qs(urlsplit(reply.headers["location"]).query)["note"]
    assert reply.status_code == 303 and note.startswith(message)
    assert client.post("/thumb", data={**form, "token": "x"}).status_code == 403
    assert not (tmp_path / "i" / FILE).exists()


def test_without_a_model_there_is_nothing_to_judge(place, tmp_path):
    with opened(shutil.copytree(place, tmp_path / "i")) as client:
        page = client.get("/", params={"q": ASKED, "ask": "1"}).text
        assert "/thumb" not in page and client.post("/thumb", data={}).status_code == 404


# ----------------------------------------------------------------------------------------- command


def test_serve_opens_the_model_and_its_thumbs(place, model, tmp_path, monkeypatch):
    again, asked = shutil.copytree(place, tmp_path / "i"), []

    def ask(app: Any, listener: Any) -> None:
        listener.close()
        client = TestClient(app, base_url="http://127.0.0.1:8765")
        page = client.get("/", params={"q": ASKED, "ask": "1"}).text
        asked.append(page.count('action="/thumb"'))
        assert client.post("/ask", json={"questions": [ASKED]}).json()["answers"][0]["written"]

    monkeypatch.setattr(serve, "run", ask)
    options = ["--model", str(model), "--port", "0"]
    assert serve.main([str(again), *options]) == 0
    assert serve.main([str(again), *options, "--drafts", "0"]) == 0
    assert asked == [3, 1]


def test_a_damaged_log_of_thumbs_is_told_and_leaves_the_index_unlocked(
    place, model, tmp_path, capsys
):
    again = shutil.copytree(place, tmp_path / "i")
    (again / FILE).write_bytes(b"00000000 {}\n00000000 {}\n")
    assert serve.main([str(again), "--model", str(model), "--port", "0"]) == 2
    assert "thumbs.log: byte 0" in capsys.readouterr().err
    search.load(again).close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["{place}", "--drafts", "3"], "--drafts: no effect without --model"),
        (["{place}", "--model", "{model}", "--drafts", "9"], "--drafts 9: must be from 0 to 8"),
        (["{place}", "--model", "{model}", "--drafts", "-1"], "--drafts -1: must be from 0 to 8"),
        (["{place}", "--model", "{place}"], "no model.json"),
    ],
)
def test_mistakes_are_said(place, model, capsys, options, message):
    given = [one.format(place=place, model=model) for one in options]
    try:
        status = serve.main([*given, "--port", "0"])
    except SystemExit as done:
        status = done.code
    assert status == 2 and message in capsys.readouterr().err


def test_a_model_without_an_index_is_refused(model, tmp_path, capsys):
    from serving import fit_named

    from sparse_jax import xmc

    xmc.save(fit_named(), tmp_path / "c")
    assert serve.main([str(tmp_path / "c"), "--model", str(model), "--port", "0"]) == 2
    assert "no effect without an index" in capsys.readouterr().err
