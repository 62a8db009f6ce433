"""Scores of single sentences, and the commands over them, against the score of a whole text."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparse_jax import lm
from sparse_jax.commands.lm import filter as lm_filter
from sparse_jax.commands.lm import perplexity, score
from sparse_jax.lm import evaluate, sentences

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXTS = ["the red fox runs", "a dog", "", "the fox sees a dog.", "the zebra runs", "狐が走る"]


@pytest.fixture(scope="module")
def model():
    """Random weights, which make every figure differ, and a memory."""
    words = lm.text.WordVocabulary.fit(
        ["the red fox runs . the fox sees a dog . a dog runs ."] * 2, min_count=2
    )
    config = lm.model.Config(vocabulary=words.size, rows=4096, hidden=8, inner=8)
    params, memory = lm.model.init(jax.random.key(1), config=config)
    rng = np.random.default_rng(0)
    params["bias"] = jnp.asarray(rng.normal(0, 1, words.size).astype(np.float32))
    unigram, popular = jnp.full(words.size, 1 / words.size), jnp.arange(4, dtype=jnp.int32)
    return lm.LanguageModel(params, memory, unigram, popular, None, config, words)


def test_the_sum_is_the_score_of_the_whole(model):
    corpus = lm.text.encode_corpus(model.vocabulary, TEXTS)
    whole = evaluate.score(model.params, model.memory, corpus, config=model.config)
    found = model.score(TEXTS)
    assert -found.log10_p.sum() * math.log(10) == pytest.approx(whole.nats, rel=1e-6)
    assert found.perplexity() == pytest.approx(whole.perplexity, rel=1e-6)
    assert found.tokens.tolist() == [4, 2, 0, 6, 3, 4]
    assert found.unknown.tolist() == [0, 0, 0, 0, 1, 4]


def test_a_sentence_knows_nothing_of_its_neighbours(model):
    together = model.score(TEXTS)
    for i, text in enumerate(TEXTS):
        alone = sentences.score(model, [text])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_allclose(a[0], b[i], atol=2e-6)


def test_what_may_come_first_has_probability_one(model):
    """Every word, the unknown one, a paragraph's two beginnings, and the end."""
    firsts = [*model.vocabulary.words[4:], "zebra", "\n\n", "\n\n  x"]
    found = model.score([*firsts, ""])
    inner = found.log10_p - found.log10_end
    inner[-1] = found.log10_end[-1]
    # "\n\n  " is known by its word behind: p("\n\n  x") = p("\n\n  ") p(x | "\n\n  ").
    corpus = lm.text.encode_corpus(model.vocabulary, ["\n\n  x"])
    assert corpus.tokens[0] == lm.text.INDENTED
    inner[-2] = sentences.log_likelihood(model, corpus)[0] / np.log(10)
    assert float((10.0**inner).sum()) == pytest.approx(1, abs=1e-5)


def test_unknown_tokens_and_ends_are_told_apart(model):
    found = model.score(["the zebra", "zebra"])
    assert (found.log10_unknown < 0).all() and (found.log10_end < 0).all()
    known = found.log10_p - found.log10_unknown
    expected = 10 ** (-known.sum() / (1 + 2))
    assert found.perplexity(unknown=False) == pytest.approx(expected)
    assert found.perplexity() == pytest.approx(10 ** (-found.log10_p.sum() / 5))


def test_a_long_line_and_none_at_all(model):
    found = model.score(["fox " * 20_000])
    assert found.tokens.tolist() == [20_000] and np.isfinite(found.log10_p).all()
    none = model.score([])
    assert none.log10_p.size == 0 and math.isnan(none.perplexity())
    with pytest.raises(TypeError, match="must be a list"):
        model.score("the fox")
    with pytest.raises(TypeError, match=r"sentences\[1\] = None: must be a string"):
        model.score(["the fox", None])


def test_large_batches_and_repeated_lines_score_as_small_ones(model):
    """9,200 tokens: two large batches, whose lines' histories repeat, and small ones."""
    many, few = model.score(TEXTS * 400), model.score(TEXTS)
    for found, expected in zip(many, few, strict=True):
        np.testing.assert_allclose(found, np.tile(expected, 400), atol=4e-6)


def test_a_word_of_a_million_letters_is_one_unknown_token(model):
    found = model.score(["fox" * 333_333, "the " + "\u0391" * 1_000_000])
    assert found.tokens.tolist() == [1, 2] and found.unknown.tolist() == [1, 1]
    assert np.isfinite(found.log10_p).all()


def test_a_mapped_model_scores_alike(place, model):
    for a, b in zip(
        lm.load(place / "model", mapped=True).score(TEXTS), model.score(TEXTS), strict=True
    ):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------------------- commands


@pytest.fixture(scope="module")
def place(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    lm.save(model, folder / "model")
    (folder / "lines.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return folder


def test_score_writes_a_line_for_each(place, model, capsysbinary):
    assert score.main([f"{place}/model", f"{place}/lines.txt"]) == 0
    head, *rows = capsysbinary.readouterr().out.decode().rstrip("\n").split("\n")
    assert head.split("\t") == ["log10", "log10_without_end", "tokens", "unknown", "text"]
    found = model.score(TEXTS)
    for i, row in enumerate(rows):
        whole, inner, tokens, unknown, text = row.split("\t")
        assert float(whole) == pytest.approx(found.log10_p[i], abs=1e-5)
        assert float(inner) == pytest.approx(found.log10_p[i] - found.log10_end[i], abs=1e-5)
        assert (int(tokens), int(unknown), text) == (found.tokens[i], found.unknown[i], TEXTS[i])
    assert len(rows) == len(TEXTS)


def test_score_reads_standard_input_and_writes_json(place, capsysbinary, monkeypatch):
    given = io.TextIOWrapper(io.BytesIO("a\tdog\r\n狐".encode()))
    monkeypatch.setattr(sys, "stdin", given)
    assert score.main([f"{place}/model", "-", "--format", "jsonl"]) == 0
    rows = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert [row["text"] for row in rows] == ["a\tdog", "狐"]
    assert score.main([f"{place}/model", f"{place}/lines.txt", "--output", f"{place}/out.tsv"]) == 0
    assert (place / "out.tsv").read_text().count("\n") == 1 + len(TEXTS)


def test_perplexity_sums_up(place, model, tmp_path, capsys):
    out = tmp_path / "r.json"
    assert perplexity.main([f"{place}/model", f"{place}/lines.txt", "--json", str(out)]) == 0
    found, results = model.score(TEXTS), json.loads(out.read_text())
    assert results["perplexity"] == pytest.approx(found.perplexity())
    known = found.perplexity(unknown=False)
    assert results["perplexity_of_known_tokens"] == pytest.approx(known)
    assert (results["sentences"], results["tokens"], results["unknown_tokens"]) == (6, 19, 5)


def test_filter_keeps_the_likely_lines_in_order(place, model, capsysbinary):
    assert lm_filter.main([f"{place}/model", f"{place}/lines.txt", "--keep", "0.5"]) == 0
    out, said = capsysbinary.readouterr()
    found = model.score(TEXTS)
    mean = found.log10_p / (found.tokens + 1)
    best = sorted(np.argsort(-mean, kind="stable")[:3])
    assert out.decode() == "".join(TEXTS[i] + "\n" for i in best)
    assert b"kept 3 of 6 lines" in said


@pytest.mark.parametrize(("share", "kept"), [("0.07", 7), ("0.14", 14), ("1e-9", 1), ("1", 100)])
def test_filter_keeps_the_share_to_the_line(place, tmp_path, capsys, share, kept):
    (tmp_path / "hundred.txt").write_text("a dog runs\n" * 100)
    assert lm_filter.main([f"{place}/model", f"{tmp_path}/hundred.txt", "--keep", share]) == 0
    out, said = capsys.readouterr()
    assert out.count("\n") == kept and f"kept {kept} of 100 lines" in said
    assert "warning" not in said


def test_filter_tells_of_lines_that_are_likely_for_being_unknown(model, tmp_path, capsys):
    """Beside a model to which the unknown token is likely, and another script is nothing else."""
    params = {**model.params, "bias": model.params["bias"].at[lm.text.UNKNOWN].set(9.0)}
    lm.save(dataclasses.replace(model, params=params), tmp_path / "model")
    (tmp_path / "lines.txt").write_text("a dog runs\n空を飛ぶ鳥\nthe fox\n狐が走る\n")
    assert lm_filter.main([f"{tmp_path}/model", f"{tmp_path}/lines.txt", "--keep", "0.5"]) == 0
    out, said = capsys.readouterr()
    assert out == "空を飛ぶ鳥\n狐が走る\n"
    assert "warning: most tokens of 2 lines kept are unknown to the model (100.0% of" in said
    assert "--vocabulary bpe" in said


def test_no_sentences_have_no_perplexity(model):
    none = model.score([])
    assert math.isnan(none.perplexity()) and math.isnan(none.perplexity(unknown=False))
    assert none.log10_known.dtype == none.log10_unknown.dtype == np.float64


@pytest.mark.parametrize("share", ["0", "1.5", "nan"])
def test_filter_refuses_other_shares(place, share, capsys):
    with pytest.raises(SystemExit):
        lm_filter.main([f"{place}/model", f"{place}/lines.txt", "--keep", share])
    assert "--keep" in capsys.readouterr().err


@pytest.mark.parametrize("command", [score, perplexity])
def test_what_can_not_be_scored_is_told(command, place, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("")
    assert command.main([f"{place}/model", f"{tmp_path}/empty.txt"]) == 2
    assert "no line to score" in capsys.readouterr().err
    assert command.main([f"{place}/model", f"{tmp_path}/none.txt"]) == 2
    assert "none.txt" in capsys.readouterr().err
    assert command.main([f"{tmp_path}", f"{place}/lines.txt"]) == 2
    assert "model.json" in capsys.readouterr().err
