"""`search ask` and the page's button of that name: answers with their sources, as a person asks."""

from __future__ import annotations

import html
import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from search_page import save
from small_index import TINY, run_search
from small_writer import save_model
from starlette.testclient import TestClient

from sparse_jax import search
from sparse_jax.commands import search as command
from sparse_jax.commands import serve
from sparse_jax.commands.search import ask, written
from sparse_jax.commands.serve.index import SearchIndex
from sparse_jax.search import answers
from sparse_jax.search.answers import answer, split
from sparse_jax.text.segments import count_words

D = search.Document
ROWS = [
    D("what", "Zorn plum is a small tree. It bears fruit early.", "Zorn plum", {"n": 1}),
    D(
        "cure",
        "Its rot is a nuisance. Pruning is a cure of rot. Spray helps.",
        "Zorn rot",
        {"n": 2},
    ),
    D("nasty", "<script>alert('glim')</script> & glim is bad.", "<b>Glim</b>", {"n": 3}),
    D("cars", "Cars need fuel.", "Cars", {"n": 4}),
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return save(tmp_path_factory.mktemp("ask") / "i", ROWS)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A language model whose words the passages have."""
    return save_model(tmp_path_factory.mktemp("lm") / "m", [row.text for row in ROWS])


# ----------------------------------------------------------------------------------------- command


def test_an_answer_and_its_source(place, capsys):
    assert command.main(["ask", str(place), "What is zorn plum?", "-k", "2"]) == 0
    out, err = capsys.readouterr()
    told, passages = out.split("\n\nPassages:\n")
    assert told == "Zorn plum is a small tree. It bears fruit early. [1]"
    lines = passages.splitlines()
    assert len(lines) == 2 and re.match(r"  1  [ -]\d\.\d{3}  what  Zorn plum$", lines[0])
    assert "no written answer" in err and "lm train" in err


def test_options_keep_to_what_they_say(place, capsys):
    asked = ["ask", place, "cure of zorn rot"]
    assert "[1]" in run_search(capsys, *asked, "--max-words", "5")
    assert run_search(capsys, *asked, "--max-words", "2").startswith("Its rot … [1]")
    assert "Not known" in run_search(capsys, *asked, "--where", "n=4")
    assert len(run_search(capsys, *asked, "--k", "1").splitlines()) == 4


def test_json(place, capsys):
    out = run_search(capsys, "ask", place, "What is zorn plum?", "--json", "-k", "2")
    head, *passages = map(json.loads, out.splitlines())
    assert head == {
        "question": "What is zorn plum?",
        "answer": "Zorn plum is a small tree. It bears fruit early.",
        "source": "what",
        "evidence": 1.0,
        "missing": [],
        "written": None,
    }
    query = run_search(capsys, "query", place, "What is zorn plum?", "--json", "-k", "2")
    assert passages == [json.loads(line) for line in query.splitlines()]


def test_it_says_when_it_does_not_know(place, model, capsys):
    asked = ["ask", place, "Who built the telescope?"]
    for more in ([], ["--model", model]):
        out = run_search(capsys, *asked, *more)
        assert out.startswith("Not known: the best passage holds 0 % of what the question asks")
        assert "it lacks: built, telescope.\n\nPassages:\n  1 " in out and "Written" not in out
    head = json.loads(run_search(capsys, *asked, "--json").splitlines()[0])
    assert (head["answer"], head["source"], head["missing"]) == (None, None, ["built", "telescope"])


def test_an_empty_index_knows_nothing(tmp_path, capsys):
    with search.fit([D("a", "b")], config=TINY) as made:
        made.delete("a")
        made.save(tmp_path / "i")
    out = run_search(capsys, "ask", tmp_path / "i", "apples")
    assert out == "Not known: no passage was found.\n"


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["?"], "question = '?': has no letter"),
        (["x" * 20_000], "question has 20,000 characters"),
        (["bad \udcff"], "question holds half a surrogate pair"),
        (["x", "-k", "0"], "k = 0: must be at least 1"),
        (["x", "--max-words", "0"], "max_words = 0: must be at least 1"),
        (["x", "--where", "n"], "must be KEY=VALUE"),
        (["x", "--model", "{place}"], "no model.json"),
        (["x", "--model", "{place}/none"], "none"),
    ],
)
def test_mistakes_are_said(place, capsys, more, message):
    args = [one.replace("{place}", str(place)) for one in more]
    assert command.main(["ask", str(place), *args]) == 2
    out, err = capsys.readouterr()
    assert message in err and out == "" and len(err) < 500


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        command.main(["ask", "--help"])
    out = capsys.readouterr().out
    assert "search ask DIR" in out and "doesn't know" in out and "lm train" in out


# ----------------------------------------------------------------------------------------- written


def test_what_a_model_writes_is_copied_and_named(place, model, capsys):
    asked = ["ask", place, "cure of zorn rot", "--model", model]
    out = run_search(capsys, *asked)
    answered, by = out.split("\n\n")[:2]
    assert answered == "Its rot is a nuisance. Pruning is a cure of rot. Spray helps. [1]"
    label = f"Written by the model in {model}, out of [1]: "
    assert by.startswith(f"{label}Its rot is a nuisance. [1] ")
    head = json.loads(run_search(capsys, *asked, "--json").splitlines()[0])
    texts = {row.id: row.text for row in ROWS}
    assert len(head["written"]["sentences"]) == 3 and head["written"]["read"] == ["cure"]
    for one in head["written"]["sentences"]:
        assert one["text"] in split(texts[one["source"]])
        assert f"{one['text']} [1]" in by
    assert run_search(capsys, *asked) == out  # it doesn't draw


class Liking:
    """Stands for a language model that finds some words likely, and no other."""

    def __init__(self, *words: str) -> None:
        self.words = words


@pytest.fixture
def liking(monkeypatch):
    """Scores by `Liking`."""

    def score(model: Liking, texts: list[str]) -> SimpleNamespace:
        words = [text.split() for text in texts]
        log10 = [sum(0.0 if word in model.words else -1.0 for word in one) for one in words]
        tokens = np.array([len(one) for one in words])
        return SimpleNamespace(log10_without_end=np.array(log10), tokens=tokens)

    monkeypatch.setattr(written.sentences, "score", score)


GLIM = [
    D("a", "Glim is a red stone. Old men dig it. They sell it.", "Glim"),
    D("b", "Blue glim is a gem. Kings wear it. Old men dig it.", "Glim"),
    D("c", "Of glass and tin this says nothing, but it stands in the index.", "Tin"),
]


@pytest.fixture(scope="module")
def glim():
    with search.fit(GLIM, config=TINY) as index:
        yield answer(index, "What is glim?", k=3)


@pytest.mark.parametrize(
    ("likes", "told"),
    [
        (
            ["Kings", "wear", "it."],
            ["b Blue glim is a gem.", "b Kings wear it.", "b Old men dig it."],
        ),
        (["Glim", "red"], ["b Blue glim is a gem.", "a Glim is a red stone.", "b Kings wear it."]),
    ],
)
def test_a_model_chooses_how_it_goes_on(liking, glim, likes, told):
    found = written.complete(Liking(*likes), glim, max_words=13)
    ids = [glim.passages[number].id for number in found.sources]
    assert [f"{id} {one}" for id, one in zip(ids, found.sentences, strict=True)] == told


def test_a_written_answer_says_nothing_twice_and_keeps_to_its_words(liking, glim):
    whole = written.complete(Liking(), glim)
    assert sorted(whole.sentences) == sorted({*split(GLIM[0].text), *split(GLIM[1].text)})
    for most in range(5, 25):
        found = written.complete(Liking("Kings"), glim, max_words=most)
        assert sum(map(count_words, found.sentences)) <= most
        assert found.sentences[0] == "Blue glim is a gem."
    assert whole.read == [0, 1] and glim.shares[2] < answers.MIN_EVIDENCE  # it isn't about that


def test_drawn_answers_differ_and_are_copied_too(liking, glim):
    first = written.complete(Liking(), glim, max_words=30)
    drawn = written.draw(Liking("Kings"), glim, 8, others=[first], max_words=30)
    texts = [tuple(one.sentences) for one in drawn]
    assert 4 <= len(texts) == len(set(texts)) <= 8 and tuple(first.sentences) not in texts
    assert len({text[0] for text in texts}) == 2 and len(set(map(len, texts))) > 1
    ids = {row.id: split(row.text) for row in GLIM}
    for one in drawn:
        assert sum(map(count_words, one.sentences)) <= 30
        for sentence, place in zip(one.sentences, one.sources, strict=True):
            assert sentence in ids[glim.passages[place].id] and place in one.read
    assert drawn == written.draw(Liking("Kings"), glim, 8, others=[first], max_words=30)
    assert drawn != written.draw(Liking("Kings"), glim, 8, max_words=30, seed=1)


def test_what_is_likelier_is_drawn_more_often(liking, glim):
    def begin(*words: str) -> int:
        drawn = [written.draw(Liking(*words), glim, 1, seed=n)[0].sentences for n in range(60)]
        return sum(text[:2] == ["Glim is a red stone.", "Old men dig it."] for text in drawn)

    assert begin("Old", "men", "dig") > 1.5 * begin("Kings", "Blue", "gem.") > 0


def test_a_sentence_that_is_too_long_is_cut(liking, glim):
    (one,) = written.draw(Liking(), glim, 1, max_words=2)
    assert one.text in {f"{text} …" for text in ("Blue", "Blue glim", "Glim", "Glim is")}


# -------------------------------------------------------------------------------------------- page


@pytest.fixture
def client(place):
    with search.load(place) as index:
        yield TestClient(serve.make_app(SearchIndex(index)), base_url="http://127.0.0.1:8765")


def box(text: str) -> list[str]:
    return re.findall(r'<section class="note" aria-label="Answer"><p>(.*?)</p>', text, re.S)


def test_the_page_answers_with_a_link_to_the_source(client):
    page = client.get("/", params={"q": "What is zorn plum?", "ask": "1"})
    assert page.status_code == 200 and '<button name="ask" value="1">Ask</button>' in page.text
    (found,) = box(page.text)
    plain = re.sub(r"</?mark>", "", found)
    assert plain.startswith("Zorn plum is a small tree. It bears fruit early.")
    number, title = re.search(r'<a href="#found(\d+)">\[\1\] (.*?)</a>', found).groups()
    assert title == "Zorn plum"
    heading = re.search(rf'<h2 id="found{number}">(.*?)</h2>', page.text)[1]
    assert re.sub(r"</?mark>", "", heading) == title
    # Without the button it is a search; what is done from an answer's page leads back to it.
    assert not box(client.get("/", params={"q": "What is zorn plum?"}).text)
    assert re.search(r'href="[^"]*why=what&amp;ask=1"', page.text)
    assert '<input type="hidden" name="ask" value="1">' in page.text
    assert not re.search(r'href="[^"]*like=[^"]*ask=1', page.text)


def test_the_page_does_not_deny_what_it_answers(tmp_path):
    """In scripts without spaces a word within a clause is none that a search tells of."""
    save(tmp_path, [D("a", "蘋果長在樹上。"), D("b", "汽車需要汽油。")])
    with search.load(tmp_path) as index:
        page = TestClient(serve.make_app(SearchIndex(index)), base_url="http://127.0.0.1:8765")
        asked = page.get("/", params={"q": "蘋果", "ask": "1"}).text
        assert "蘋果長在樹上。" in re.sub("</?mark>", "", box(asked)[0])
        assert "holds a word of the query" not in asked
        assert "holds a word of the query" in page.get("/", params={"q": "蘋果"}).text
        assert "holds a word of the query" in page.get("/", params={"q": "魚", "ask": "1"}).text


def test_the_page_escapes_answers(client):
    page = client.get("/", params={"q": "What is glim?", "ask": "1"}).text
    (found,) = box(page)
    assert "&lt;script&gt;" in found and "&lt;b&gt;Glim&lt;/b&gt;" in found
    assert "<script>alert" not in page and "<b>" not in page
    (found,) = box(client.get("/", params={"q": "<i>telescope</i>", "ask": "1"}).text)
    assert found.startswith("Not known") and "<i>" not in found


def test_the_page_says_when_it_does_not_know(client, place):
    (found,) = box(client.get("/", params={"q": "Who built the telescope?", "ask": "1"}).text)
    with search.load(place, read_only=True) as index:
        assert html.unescape(found) == ask.unknown(answer(index, "Who built the telescope?"))
    wrong = client.get("/", params={"q": "?!", "ask": "1"})
    assert wrong.status_code == 400 and not box(wrong.text)
    none = client.get("/", params={"q": "plum", "ask": "1", "where": "n>9"})
    assert box(none.text) == ["Not known: no passage was found."]
