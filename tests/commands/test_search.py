"""The commands and the page, as a person uses them; and the measures they print."""

from __future__ import annotations

import dataclasses
import gzip
import html
import html.parser
import json
import math
import re
import shutil
from importlib.resources import files
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sparse_jax import search
from sparse_jax.commands import search as search_script
from sparse_jax.commands import serve
from sparse_jax.commands.serve import page
from sparse_jax.commands.serve.index import SearchIndex
from sparse_jax.search import evaluation, protocols
from sparse_jax.search.evaluation import Judgement

ROOT = Path(__file__).resolve().parents[2]

ROWS = [
    json.loads(line)
    for line in (files("sparse_jax.search") / "sample.jsonl").read_text("utf-8").splitlines()
]


TINY = search.Config(num_features=1 << 17, dim=16, cold_steps=10, cold_batch=64)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Every index a script makes here is small."""
    init = search.fit
    monkeypatch.setattr(search, "Config", lambda **more: dataclasses.replace(TINY, **more))
    monkeypatch.setattr(search, "fit", lambda d, config=None: init(d, config=config or TINY))


def run(capsys, *args: str) -> tuple[int, str, str]:
    code = search_script.main([str(a) for a in args])
    return code, *capsys.readouterr()


# ---------------------------------------------------------------------------------------- measures


def test_measures_by_hand():
    queries = [
        Judgement("one", {"a": 1.0}, "query"),
        Judgement("graded", {"a": 1.0, "b": 3.0}, "query"),
        Judgement("lost", {"z": 1.0}, "query"),
    ]
    found = [["x", "a"], ["a", "b"], []]
    scores = evaluation.gains_to_scores(found, queries)
    log3 = 1 / math.log2(3)
    expected = [log3, (1 + 3 * log3) / (3 + log3), 0]
    assert scores["ndcg@10"].tolist() == pytest.approx(expected)
    assert scores["p@1"].tolist() == [0, 1, 0]
    assert scores["recall@10"].tolist() == [1, 1, 0]


def test_measure_counts_a_refused_query_as_a_miss():
    def find(queries):
        assert "?" not in queries
        return [["a"] for _ in queries]

    queries = [Judgement("fine", {"a": 1.0}, "q"), Judgement("?", {"a": 1.0}, "q")]
    assert evaluation.measure(find, queries)["p@1"] == 0.5


def medical() -> list[dict]:
    """Topics with two questions each, and an alias for some."""
    rows = []
    for n in range(12):
        topic, alias = f"disease{n}{'xyz'[n % 3]}", f"syndrome of alias{n}q"
        for kind, body in (("causes", "comes from genes"), ("symptoms", "shows as fever")):
            rows.append(
                {
                    "kind": "doc",
                    "id": f"{kind}{n}",
                    "title": topic,
                    "qtype": kind,
                    "text": f"{topic} {body} and more of it.",
                    "aliases": [alias],
                    "question": f"What are the {kind} of {topic}?",
                }
            )
        rows.append(
            {
                "kind": "alias_query",
                "id": f"a{n}",
                "rel": [f"causes{n}"],
                "text": f"What are the causes of {alias}?",
            }
        )
    return rows


def write(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_protocols_hold_back_what_they_say(tmp_path):
    dataset = evaluation.read_dataset(write(tmp_path / "m.jsonl", medical()))
    told = protocols.associations(dataset, seed=1)
    assert len(told.pairs) == 6 and len(told.told) == 6 and len(told.held_back) == 6
    for query in told.told:
        assert sum(alias in query.text for alias, _ in told.pairs) == 1
    for query in told.held_back:
        assert not any(alias in query.text for alias, _ in told.pairs)
    up = protocols.upvotes(dataset, seed=1)

    def topic(id):
        return re.sub("[a-z]", "", id)

    topics = {topic(id) for _, id in up.pairs}
    assert len(up.pairs) == len(up.told) == len(up.same_topic) == 6
    assert not {q.text for q in up.told} & {q.text for q in up.same_topic}
    for query in up.untouched:
        assert topic(next(iter(query.grades))) not in topics
    with pytest.raises(ValueError, match="alias"):
        protocols.associations(evaluation.read_dataset(write(tmp_path / "p", ROWS)), seed=0)
    with pytest.raises(ValueError, match="topic"):
        protocols.upvotes(evaluation.read_dataset(write(tmp_path / "p", ROWS)), seed=0)


# ---------------------------------------------------------------------------------------- commands


def test_evaluate_pairs(tmp_path, capsys):
    data = tmp_path / "pairs.jsonl.gz"
    data.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS).encode()))
    code, out, err = run(capsys, "evaluate", data, "--json", tmp_path / "out.json")
    assert code == 0, err
    results = json.loads((tmp_path / "out.json").read_text())
    assert results == json.loads(out.splitlines()[-1])
    for name in ("ndcg@10", "p@1", "recall@10", "bm25_ndcg@10", "train_seconds", "query_ms"):
        assert isinstance(results[name], float)
    assert results["documents"] == results["queries"] == 400
    assert 0.8 < results["bm25_ndcg@10"] < 1 and 0.8 < results["ndcg@10"] < 1


@pytest.mark.slow
def test_evaluate_feedback(tmp_path, capsys):
    data = write(tmp_path / "m.jsonl", medical())
    code, out, err = run(
        capsys, "evaluate", data, "--feedback", "associate", "--feedback", "upvote"
    )
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["group"] == "alias_query" and set(results["groups"]) == {
        "alias_query",
        "question",
    }
    before, after = results["associate"]["told_ndcg@10"]
    assert after > before
    assert results["upvote"]["told_p@1"][1] >= 0.9
    assert results["upvote"]["events"] == 6
    # Each protocol starts from the same index.
    assert results["upvote"]["untouched_queries"] == 12


@pytest.mark.slow
def test_a_life_of_an_index(tmp_path, capsys):
    place = tmp_path / "my index"
    rows = [{"id": r["id"], "text": r["text"], "metadata": {"n": i}} for i, r in enumerate(ROWS)]
    assert run(capsys, "index", place, write(tmp_path / "a", rows[:390]))[0] == 0
    code, out, _ = run(capsys, "index", place, write(tmp_path / "b", rows[390:]))
    assert code == 0 and "400 in" in out
    last = rows[-1]
    code, out, _ = run(capsys, "query", place, last["text"][:200], "-k", "1", "--json")
    assert json.loads(out)["id"] == last["id"]
    code, out, _ = run(capsys, "query", place, "library", "--where", "n=3", "--explain")
    assert code == 0 and rows[3]["id"] in out and "library" in out and len(out.splitlines()) == 2
    code, out, _ = run(capsys, "upvote", place, "café zum glück", "libplank-doc")
    assert code == 0
    undo = re.search(r"undo with: undo .* (\d+)$", out.strip())
    assert undo
    code, out, _ = run(capsys, "query", place, "café zum glück")
    assert "libplank-doc" in out.splitlines()[0]
    assert run(capsys, "undo", place, undo[1])[0] == 0
    assert run(capsys, "associate", place, "zorblax", "plank dock library")[0] == 0
    code, out, _ = run(capsys, "query", place, "zorblax")
    assert "plank" in out
    assert run(capsys, "delete", place, "libplank-doc")[0] == 0
    assert run(capsys, "save", place)[0] == 0
    code, out, _ = run(capsys, "query", place, "plank dock")
    assert code == 0 and "libplank-doc" not in out


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """An index of one document, on disk."""
    place = tmp_path_factory.mktemp("one") / "i"
    with search.fit([search.Document("a", "words", metadata={"n": 1})], config=TINY) as index:
        index.save(place)
    return place


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["query", "{place}", " "], "no letter"),
        (["query", "{place}", "x" * 20_000], "characters"),
        (["query", "{place}", "bad \udcff bytes"], "surrogate"),
        (["query", "{place}", "x", "--where", "n"], "KEY=VALUE"),
        (["query", "{place}", "x", "--where", "colour=red"], "colour"),
        (["upvote", "{place}", "x", "nobody"], "nobody"),
        (["delete", "{place}", "nobody"], "nobody"),
        (["undo", "{place}"], "no feedback"),
        (["query", "{place}/none", "x"], "no index"),
        (["index", "{place}", "{place}/none"], "none"),
        (["index", "{place}", "{place}/../bad"], "line 2"),
        (["index", "{place}", "{place}/../odd"], "text = 5"),
        (["index", "{place}", "{place}/../bad", "--id", "x"], "line 2"),
        (["evaluate", "{place}/../bad", "--kind", "beir"], "queries.jsonl"),
        (["evaluate", "{place}/../bad", "--split", "dev"], "split = 'dev'"),
        (["evaluate", "{place}/../bad", "--sample", "0"], "--sample 0"),
        (["index", "{place}", "{place}/../bad", "--seed", "-1"], "--seed -1"),
        (["related", "{place}", "nobody"], "nobody"),
        (["evaluate", "{place}/../bad"], "line 2"),
    ],
)
def test_mistakes_are_explained_and_change_nothing(tmp_path, capsys, args, message, one):
    place = tmp_path / "i"
    shutil.copytree(one, place)
    (tmp_path / "bad").write_text('{"id": "q", "text": "a", "title": "b"}\n{"id"\n')
    (tmp_path / "odd").write_text('{"id": "q", "text": 5}\n')
    before = {p.name: p.read_bytes() for p in place.rglob("*") if p.is_file()}
    code, _, err = run(capsys, *(a.replace("{place}", str(place)) for a in args))
    assert code == 2 and message in err and len(err) < 500
    assert {p.name: p.read_bytes() for p in place.rglob("*") if p.is_file()} == before


def test_help_states_the_protocol(capsys):
    with pytest.raises(SystemExit):
        search_script.main(["evaluate", "--help"])
    out = capsys.readouterr().out
    assert "neither indexed nor trained on" in out


# -------------------------------------------------------------------------------------------- page


class Reader(html.parser.HTMLParser):
    """Forms with their fields, and what a keyboard reaches without a name."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.forms: list[tuple[str | None, dict[str | None, str | None]]] = []
        self.labels: set[str | None] = set()
        self.inputs: list[dict[str, str | None]] = []
        self.marked, self.scripts = text.count("<mark>"), []
        self.feed(text)
        assert self.scripts == ["/page.js"] and "style=" not in text

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if tag == "form":
            self.forms.append((found.get("action"), {}))
        if tag == "label":
            self.labels.add(found.get("for"))
        if tag == "input":
            self.inputs.append(found)
            self.forms[-1][1][found.get("name")] = found.get("value", "")
        # The page's own script is a file: what comes from documents can't be one.
        self.scripts += [found.get("src")] if tag == "script" else []
        assert tag not in {"img", "style"} and not any(a.startswith("on") for a in found)


@pytest.fixture(scope="module")
def first_start(tmp_path_factory):
    """What the page makes where there is no index, in small."""
    place = tmp_path_factory.mktemp("served") / "i"
    with pytest.MonkeyPatch.context() as patch:
        init = search.fit
        patch.setattr(search, "fit", lambda documents: init(documents, config=TINY))
        page.make_sample_index(place)
    return place


@pytest.fixture
def client(first_start, tmp_path):
    shutil.copytree(first_start, tmp_path / "i")
    with search.load(tmp_path / "i") as index:
        app = serve.make_app(SearchIndex(index))
        yield TestClient(app, base_url="http://127.0.0.1:8765")


def test_the_first_start_indexes_the_sample(client):
    page = client.get("/", params={"q": "plank dock documentation"})
    assert page.status_code == 200 and "Search 400 documents" in page.text
    read = Reader(page.text)
    assert read.marked > 3
    # Every field a person fills has a label, and every action is a form with a button.
    for field in read.inputs:
        assert field.get("type") == "hidden" or field.get("id") in read.labels
    assert len(read.forms) == 1 + 10 + 3  # the last one adds files, or cancels that
    assert page.text.count("<button") == len(read.forms) + 2  # one form searches, or asks
    assert "autofocus" in page.text


def test_the_page_teaches(client):
    start = client.get("/", params={"q": "my favourite thing"})
    forms = [fields for action, fields in Reader(start.text).forms if action == "/upvote"]
    chosen = forms[4]
    answer = client.post("/upvote", data=chosen)
    assert answer.status_code == 200 and "Learned" in answer.text
    first = next(f for a, f in Reader(answer.text).forms if a == "/upvote")
    assert first["id"] == chosen["id"]
    teach = next(f for a, f in Reader(answer.text).forms if a == "/associate")
    answer = client.post("/associate", data={**teach, "source": "zorblax", "target": "plank dock"})
    assert "“zorblax” means “plank dock”" in answer.text
    assert "plank" in client.get("/", params={"q": "zorblax"}).text
    undo = next(f for a, f in Reader(answer.text).forms if a == "/undo")
    assert "Undone" in client.post("/undo", data=undo).text
    assert "Undone" in client.post("/undo", data=undo).text
    assert "no feedback" in client.post("/undo", data=undo).text
    again = client.get("/", params={"q": "my favourite thing"}).text
    assert re.sub("value=.*?>", "", again) == re.sub("value=.*?>", "", start.text)


def test_the_page_filters_explains_and_finds_the_like(client):
    start = client.get("/", params={"q": "plank dock documentation"})
    links = [html.unescape(x) for x in re.findall(r'<a href="(.*?)"', start.text)]
    like, why = links[:2]
    assert "like=" in like and "why=" in why and len(links) == 21
    told = client.get(why).text
    assert told.count("What each word adds") == 1 and re.search(r"plank [+-]0\.\d{3}", told)
    found = client.get(like)
    assert found.status_code == 200 and "Documents like" in found.text
    own = re.search(r"like=([^&]+)", like)[1]
    assert f'class="score">{own},' not in found.text and found.text.count("<li>") == 10
    # The sample has no metadata: a condition on it is an error that says so, or finds nothing.
    none = client.get("/", params={"q": "plank", "where": "year>2005"})
    assert none.status_code in (200, 400) and "<li>" not in none.text
    wrong = client.get("/", params={"q": "plank", "where": "year"})
    assert wrong.status_code == 400 and "must be KEY=VALUE" in wrong.text
    assert client.get("/", params={"like": "nobody"}).status_code == 400
    nasty = client.get("/", params={"q": "plank", "where": '"><script>x</script>=1'})
    assert "<script>" not in nasty.text


def test_the_page_keeps_to_documents_with_some_metadata(tmp_path):
    rows = [search.Document(f"d{n}", f"red apple {n}", metadata={"year": n}) for n in range(8)]
    with search.fit(rows, config=TINY) as made:
        made.save(tmp_path / "i")
    with search.load(tmp_path / "i") as index:
        app = serve.make_app(SearchIndex(index))
        client = TestClient(app, base_url="http://127.0.0.1:8765")
        asked = {"q": "red apple", "where": "year>2 & year<=5"}
        found = client.get("/", params=asked).text
        assert sorted(re.findall(r'class="score">(d\d),', found)) == ["d3", "d4", "d5"]
        upvote = next(f for a, f in Reader(found).forms if a == "/upvote")
        after = client.post("/upvote", data=upvote)  # the filter stays
        assert "Learned" in after.text and after.text.count("<li>") == 3


def test_the_page_refuses_what_is_not_its_own(client):
    page = client.get("/", params={"q": "plank"})
    fields = next(f for a, f in Reader(page.text).forms if a == "/upvote")
    assert client.post("/upvote", data={**fields, "token": "x"}).status_code == 403
    assert client.post("/upvote", data={}).status_code == 403
    assert client.get("/upvote").status_code == 405
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.post("/upvote", data={"q": "x" * 200_000}).status_code == 413
    assert client.post("/upvote", content=b"\xff=1").status_code == 400
    assert "nobody" in client.post("/upvote", data={**fields, "id": "nobody"}).text
    assert client.get("/", params={"q": "?!"}).status_code == 400
    nasty = client.get("/", params={"q": '"><script>alert(1)</script>'})
    assert "<script>" not in nasty.text
    Reader(nasty.text)
