"""Figures of `search evaluate` are those of trec_eval on the run that it writes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from small_index import TINY, run_search

from sparse_jax import search
from sparse_jax.search import evaluation
from sparse_jax.search.evaluation import Judgement

pytrec_eval = pytest.importorskip("pytrec_eval")
MEASURES = {"ndcg@10": "ndcg_cut_10", "p@1": "P_1", "recall@10": "recall_10"}


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Indexes that commands make are small."""
    monkeypatch.setattr(search, "Config", lambda **more: dataclasses.replace(TINY, **more))
    fit = search.fit
    monkeypatch.setattr(search, "fit", lambda d, config=None: fit(d, config=config or TINY))


def collection(seed: int, documents: int, queries: int):
    """Texts of few words, so that many are equal; graded judgements, some of what isn't there."""
    rng = np.random.default_rng(seed)
    words = [f"word{n}" for n in range(12)]
    texts = {f"d{n}": " ".join(rng.choice(words, rng.integers(1, 4))) for n in range(documents)}
    asked = {f"{n}": " ".join(rng.choice(words, 2)) for n in range(queries)}
    names = [*texts, "gone1", "gone2"]
    qrels = {
        query: {
            str(d): int(g)
            for d, g in zip(
                rng.choice(names, 15, replace=False), rng.integers(-1, 4, 15), strict=True
            )
        }
        for query in asked
    }
    qrels["0"] = dict.fromkeys(qrels["0"], 0)  # nothing is relevant
    qrels["1"] = {"gone1": 2, "d1": -1}  # what is, isn't there
    asked["2"] = "?!"
    qrels["unknown"] = {"d1": 1}
    return texts, asked, qrels


def write_jsonl(folder: Path, texts, asked, qrels) -> Path:
    rows = [{"kind": "doc", "id": d, "text": t} for d, t in texts.items()]
    for query, grades in qrels.items():
        if query in asked:
            rows.append({"kind": "query", "id": query, "text": asked[query], "qrels": grades})
    (folder / "f.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / "f.jsonl"


def write_beir(folder: Path, texts, asked, qrels) -> Path:
    for name, rows in (("corpus", texts), ("queries", asked)):
        lines = (json.dumps({"_id": d, "text": t, "title": ""}) for d, t in rows.items())
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    (folder / "qrels").mkdir()
    for split in ("dev", "test"):
        lines = [f"{q}\t{d}\t{g}" for q, row in qrels.items() for d, g in row.items()]
        lines = lines if split == "test" else lines[:1]
        (folder / "qrels" / f"{split}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *lines])
        )
    return folder


def write_trec(folder: Path, texts, asked, qrels) -> Path:
    parts = (f"<DOC>\n<DOCNO> {d} </DOCNO>\n<TEXT>{t}</TEXT>\n</DOC>" for d, t in texts.items())
    (folder / "docs").write_text("\n".join(parts))
    tops = (f"<top>\n<num> Number: {q}\n<title> {t}\n\n</top>" for q, t in asked.items())
    (folder / "topics.txt").write_text("\n".join(tops))
    lines = (f"{q} 0 {d} {g}" for q, row in qrels.items() for d, g in row.items())
    (folder / "qrels.txt").write_text("\n".join(lines))
    return folder


def write_msmarco(folder: Path, texts, asked, qrels) -> Path:
    for name, rows in (("collection", texts), ("queries.dev", asked)):
        lines = (f"{d.lstrip('d')}\t{t}" for d, t in rows.items())
        (folder / f"{name}.tsv").write_text("\n".join(lines))
    numbered = (f"{q}\t0\t{d.lstrip('d')}\t{g}" for q, row in qrels.items() for d, g in row.items())
    (folder / "qrels.dev.tsv").write_text("\n".join(numbered))
    return folder


def read_run(path: Path) -> dict[str, dict[str, float]]:
    run: dict[str, dict[str, float]] = {}
    for line in path.read_text().splitlines():
        query, _, document, _, score, _ = line.split()
        run.setdefault(query, {})[document] = float(score)
    return run


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("write", [write_jsonl, write_beir, write_trec, write_msmarco])
def test_figures_are_those_of_trec_eval(tmp_path, capsys, write, seed):
    texts, asked, qrels = collection(seed, documents=40 if seed else 150, queries=14)
    place = write(tmp_path, texts, asked, qrels)
    out = run_search(capsys, "evaluate", place, "--run", tmp_path / "a.run")
    ours, run = json.loads(out.splitlines()[-1]), read_run(tmp_path / "a.run")
    if write is write_msmarco:
        qrels = {q: {d.lstrip("d"): g for d, g in row.items()} for q, row in qrels.items()}
    measures = {"ndcg_cut.10", "P.1", "recall.10"}
    theirs = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    for name, their_name in MEASURES.items():
        mean = np.mean([scores[their_name] for scores in theirs.values()])
        assert ours[name] == pytest.approx(mean, abs=1e-6)
    assert 0 < ours["ndcg@10"] < 1
    # Not asked: 0 and 1 have no answer, 2 no word, the last no text.
    assert sorted(run, key=int) == [str(n) for n in range(3, 14)]
    assert len(run["3"]) == min(len(texts), evaluation.DEPTH)
    negative = sum(g < 0 for q, row in qrels.items() if q in asked for g in row.values())
    missing = sum(d.startswith("gone") and g > 0 for q in asked for d, g in qrels[q].items())
    assert (ours["negative_grades"], ours["missing_answers"]) == (negative, missing)
    assert (ours["unanswered_queries"], ours["skipped_queries"], ours["empty_queries"]) == (1, 2, 1)
    assert ours["unknown_queries"] == (write is not write_jsonl)
    assert f"{negative} judgements below 0: no answers" in out
    assert "1 queries without a word, left out" in out


def test_ties_are_broken_as_trec_eval_does():
    rng = np.random.default_rng(3)
    ids = [f"d{n}" for n in range(60)] + ["é", "D", "~"]
    for _ in range(20):
        scores = rng.integers(0, 4, len(ids)).astype(np.float32) / 3
        grades = {str(d): int(rng.integers(1, 4)) for d in rng.choice(ids, 8, replace=False)}
        run = {"q": dict(zip(ids, scores.tolist(), strict=True))}
        theirs = pytrec_eval.RelevanceEvaluator({"q": grades}, {"ndcg_cut.10", "recall.10"})
        ranked = [ids[place] for place in evaluation.rank(ids, scores.tolist())]
        ours = evaluation.gains_to_scores([ranked], [Judgement("q", grades, "g")])
        found = theirs.evaluate(run)["q"]
        assert ours["ndcg@10"][0] == pytest.approx(found["ndcg_cut_10"], abs=1e-9)
        assert ours["recall@10"][0] == pytest.approx(found["recall_10"], abs=1e-9)


def test_a_run_can_be_read_whatever_the_ids(tmp_path):
    queries = [Judgement("x", {}, "g", "a query"), Judgement("y", {}, "g", "b")]
    evaluation.write_run(tmp_path / "r", queries, [[("my file.txt#1%", 0.1)], []], name="us")
    assert (tmp_path / "r").read_text() == "a%20query Q0 my%20file.txt#1% 1 0.1 us\n"
    with pytest.raises(ValueError, match="two queries have the id 'b'"):
        evaluation.write_run(tmp_path / "r", [queries[1]] * 2, [[], []])


def test_which_judgements_are_meant(tmp_path):
    place = write_beir(tmp_path, *collection(0, 20, 5))
    assert len(evaluation.read_dataset(place).queries) == 2
    with pytest.raises(ValueError, match="0 queries with an answer"):
        evaluation.read_dataset(place, split="dev")  # one judgement of the query without an answer
    with pytest.raises(ValueError, match="split = 'train': must be one of dev, test"):
        evaluation.read_dataset(place, split="train")
    (place / "qrels" / "test.tsv").rename(place / "qrels" / "eval.tsv")
    with pytest.raises(ValueError, match=r"judgements of dev, eval: .*--split NAME"):
        evaluation.read_dataset(place)
    (place / "qrels" / "eval.tsv").write_text("query-id\tcorpus-id\tscore\n3\td1\thigh\n")
    with pytest.raises(ValueError, match=r"eval\.tsv, line 2: grade = 'high'"):
        evaluation.read_dataset(place, split="eval")


def test_empty_texts_are_counted(tmp_path):
    rows = [
        {"kind": "doc", "id": "a", "text": None},
        {"kind": "doc", "id": "b", "text": "words"},
        {"kind": "query", "text": "words", "rel": ["b", "a"]},
        {"kind": "query", "text": None, "rel": ["b"]},
        {"kind": "query", "text": "words", "rel": []},
    ]
    (tmp_path / "f").write_text("\n".join(map(json.dumps, rows)))
    counts = evaluation.read_dataset(tmp_path / "f").counts
    assert counts.lines() == [
        "1 queries without an answer, left out",
        "1 queries without a word, left out",
        "1 documents without a word, never found by words",
    ]
