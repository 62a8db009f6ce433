"""A language model and an n-gram model as one, and the commands over both."""

from __future__ import annotations

import json
import random

import arpa_files
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call

from sparse_jax import lm
from sparse_jax.commands.lm import arpa as lm_arpa
from sparse_jax.commands.lm import filter as lm_filter
from sparse_jax.commands.lm import perplexity, score
from sparse_jax.lm import arpa, interpolation
from sparse_jax.lm.text import DOCUMENT, UNKNOWN, Corpus

pytestmark = pytest.mark.usefixtures("quick_compiles")

KNOWN = ["the", "red", "fox", "runs", "sees", "a", "dog", "."]
# Words that one side alone knows: "." is the model's, "cat" and "horse" are the n-gram model's.
SENTENCES = [
    "the red fox runs",
    "a cat sees the horse",
    "the dog sees a cat",
    "a red horse runs",
] * 3
LINES = ["the red fox runs .", "a cat sees a zebra", "", "狐が走る", "the dog"]


@pytest.fixture(scope="module")
def model():
    """Random weights, which make every figure differ, and a memory."""
    words = lm.text.WordVocabulary.fit([" ".join(KNOWN)] * 2, min_count=2)
    config = lm.model.Config(vocabulary=words.size, rows=4096, hidden=8, inner=8)
    params, memory = lm.model.init(jax.random.key(1), config=config)
    rng = np.random.default_rng(0)
    params["bias"] = jnp.asarray(rng.normal(0, 1, words.size).astype(np.float32))
    unigram = rng.random(words.size)
    unigram[3] = 0
    popular = jnp.arange(4, dtype=jnp.int32)
    share = jnp.asarray((unigram / unigram.sum()).astype(np.float32))
    return lm.LanguageModel(params, memory, share, popular, None, config, words)


@pytest.fixture(scope="module")
def place(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    lm.save(model, folder / "model")
    arpa_files.write(folder / "m.arpa", SENTENCES, 3)
    (folder / "lines.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    (folder / "valid.txt").write_text("\n".join(SENTENCES) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def other(place):
    return arpa.read(place / "m.arpa")


def following(size: int, count: int) -> tuple[list[list[int]], Corpus, np.ndarray]:
    """(histories, each with every token of a vocabulary behind it, where those tokens are)."""
    rng = random.Random(0)
    tokens = [t for t in range(size) if t != DOCUMENT]
    histories = [rng.choices(tokens, k=rng.randrange(6)) for _ in range(count)]
    flat, places = [], []
    for history in histories:
        for token in range(size):
            flat += history
            places.append(len(flat))
            flat += [DOCUMENT] if token == DOCUMENT else [token, DOCUMENT]
    return histories, Corpus(np.array(flat, np.int32), len(places), 0), np.array(places)


def test_the_sum_over_the_models_words_is_one_after_a_thousand_histories(model, other):
    size = model.vocabulary.size
    _, corpus, places = following(size, 1000)
    both = interpolation.interpolate(model, other)
    log_q = interpolation.log_probs(both.expert, corpus)[places]
    np.testing.assert_allclose(np.exp(log_q).reshape(-1, size).sum(1), 1, atol=1e-5)
    _, corpus, places = following(size, 60)
    for weight in (0.0, 0.3, 1.0):
        both = interpolation.interpolate(model, other, weight)
        p = np.exp(both.log_probs(corpus)[places]).reshape(-1, size)
        np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)


def test_the_n_gram_models_words_are_carried_over_by_the_rule(place, model, other):
    """Against dictionaries: what both know stays, strangers go to <unk>, <unk> is shared."""
    grams = arpa_files.discounted(SENTENCES, 3)
    words = model.vocabulary.words
    histories, corpus, places = following(len(words), 25)
    expert = interpolation.carry_over(other, model.vocabulary, np.asarray(model.unigram))
    q = np.exp(interpolation.log_probs(expert, corpus)[places]).reshape(-1, len(words))
    share = np.asarray(model.unigram, np.float64)
    share[3] = share[share > 0].min()
    strangers = [0, 2, 3, words.index(".")]
    assert expert.known == len(words) - len(strangers)
    for row, history in zip(q, histories, strict=True):
        named = ["<s>", *(words[t] if t != UNKNOWN else "<unk>" for t in history)]

        def p(word, named=named):
            return 10 ** arpa_files.log10_p(grams, word, named)

        for token, word in enumerate(words):
            expected = p(word)
            if token in strangers:
                expected = p("<unk>") * share[token] / share[strangers].sum()
            if token == UNKNOWN:
                expected += p("cat") + p("horse")
            assert row[token] == pytest.approx(expected, rel=1e-5)


def test_the_ends_are_the_two_models(model, other):
    whole = interpolation.interpolate(model, other, 0.0).score(LINES)
    for a, b in zip(whole, model.score(LINES), strict=True):
        np.testing.assert_allclose(a, b)
    alone = interpolation.interpolate(model, other, 1.0).score(["the red fox runs", ""])
    np.testing.assert_allclose(
        alone.log10_p, other.score(["the red fox runs", ""]).log10_p, atol=1e-6
    )
    assert np.isnan(interpolation.interpolate(model, other).score([]).perplexity())


def test_the_weight_found_is_the_best(model, other):
    texts = ["the red fox sees the dog", "the dog runs .", "a zebra sees a red dog ."]
    fitted = interpolation.fit(interpolation.interpolate(model, other), texts)
    assert 0.05 < fitted.weight < 0.95
    likely = fitted.score(texts).log10_p.sum()
    for weight in (0.0, fitted.weight - 0.02, fitted.weight + 0.02, 1.0):
        assert likely > interpolation.interpolate(model, other, weight).score(texts).log10_p.sum()
    with pytest.raises(ValueError, match="texts is empty: must hold sentences"):
        interpolation.fit(fitted, [])


def test_what_can_not_be_mixed_is_told(model, other):
    pieces = lm.bpe.BpeVocabulary.fit(["the red fox"], size=270)
    with pytest.raises(ValueError, match="BpeVocabulary: must be one of words"):
        interpolation.carry_over(other, pieces, np.ones(270))
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="must be from 0 to 1"):
            interpolation.interpolate(model, other, weight)


# ---------------------------------------------------------------------------------------- commands


def test_perplexity_with_a_weight_and_with_the_best(place, model, other, capsys):
    given = [f"{place}/model", f"{place}/lines.txt", "--arpa", f"{place}/m.arpa"]
    found = {}
    for options in ([], ["--weight", "0.2"], ["--valid", f"{place}/valid.txt"]):
        status, out, err = call(perplexity, capsys, *given, *options)
        assert status == 0, err
        results = json.loads(out.splitlines()[-1])
        both = interpolation.interpolate(model, other, results["arpa_weight"])
        assert results["perplexity"] == pytest.approx(both.score(LINES).perplexity(), rel=1e-5)
        assert "m.arpa knows 8 of the model's 12 words" in err
        found[tuple(options)] = results["arpa_weight"]
    best = interpolation.fit(interpolation.interpolate(model, other), SENTENCES).weight
    assert list(found.values()) == pytest.approx([0.5, 0.2, best])


def test_lines_that_choose_their_own_weight_are_told(place, capsys):
    given = [f"{place}/model", f"{place}/lines.txt", "--arpa", f"{place}/m.arpa", "--valid"]
    status, _, err = call(perplexity, capsys, *given, f"{place}/../{place.name}/lines.txt")
    assert status == 0 and "lines.txt is FILE itself" in err and "flatters" in err
    status, _, err = call(perplexity, capsys, *given, f"{place}/valid.txt")
    assert status == 0 and "FILE itself" not in err
    status, _, err = call(perplexity, capsys, *given, f"{place}/none.txt")
    assert status == 2 and "none.txt" in err


def test_score_and_filter_take_an_n_gram_model_alone_or_beside(place, model, other, capsysbinary):
    status, _, err = call(lm_arpa, capsysbinary, f"{place}/m.arpa", f"{place}/kept")
    assert status == 0, err
    outputs = []
    for alone in (f"{place}/m.arpa", f"{place}/kept"):
        status, out, err = call(score, capsysbinary, alone, f"{place}/lines.txt")
        assert status == 0, err
        outputs.append(out)
    assert outputs[0] == outputs[1]
    rows = [row.split("\t") for row in outputs[0].decode().splitlines()[1:]]
    expected = other.score(LINES)
    np.testing.assert_allclose([float(r[0]) for r in rows], expected.log10_p, atol=1e-5)
    assert [int(r[3]) for r in rows] == expected.unknown.tolist()
    both = [f"{place}/model", f"{place}/lines.txt", "--arpa", f"{place}/kept", "--weight", "1"]
    status, out, err = call(lm_filter, capsysbinary, *both, "--keep", "0.2")
    assert status == 0, err
    found = interpolation.interpolate(model, other, 1.0).score(LINES)
    assert out.decode() == LINES[int(np.argmax(found.log10_p / (found.tokens + 1)))] + "\n"


def test_arpa_tells_what_it_kept_and_whether_it_sums_to_one(place, other, tmp_path, capsys):
    status, out, err = call(lm_arpa, capsys, f"{place}/m.arpa", f"{tmp_path}/m")
    assert status == 0 and not err
    results = json.loads(out.splitlines()[-1])
    assert results["ngrams"] == [order.keys.size for order in other.orders]
    assert results["worst_sum"] == pytest.approx(1, abs=1e-5)
    text = (place / "m.arpa").read_text(encoding="utf-8")
    (tmp_path / "heavy.arpa").write_text(text.replace("<unk>\t", "<unk>\t1"), encoding="utf-8")
    status, out, err = call(lm_arpa, capsys, f"{tmp_path}/heavy.arpa", f"{tmp_path}/m")
    assert status == 0 and "probabilities sum to" in err
    status, _, err = call(lm_arpa, capsys, f"{place}/m.arpa", f"{place}/model")
    assert status == 2 and "holds a model of kind 'lm', which would be lost" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weight", "0.5"], "--weight: no effect without --arpa FILE"),
        (["--valid", "v.txt"], "--valid: no effect without --arpa FILE"),
        (["--arpa", "A", "--valid", "V", "--weight", "0"], "--weight: no effect with --valid"),
        (["--arpa", "A", "--weight", "1.5"], "--weight 1.5: must be from 0 to 1"),
        (["--arpa", "A", "--weight", "nan"], "--weight nan: must be from 0 to 1"),
        (["--arpa", "no.arpa"], "no.arpa"),
        (["--arpa", "{model}"], "holds a model of kind 'lm': must be 'lm arpa'"),
        (["--arpa", "{lines}"], "lines.txt: has no \\data\\: must be an ARPA file"),
    ],
)
def test_options_without_effect_or_sense_are_refused(place, capsys, options, message):
    named = {"{model}": f"{place}/model", "{lines}": f"{place}/lines.txt"}
    options = [named.get(option, option) for option in options]
    status, _, err = call(perplexity, capsys, f"{place}/model", f"{place}/lines.txt", *options)
    assert status == 2 and message in err


def test_an_n_gram_model_beside_itself_is_refused(place, capsys):
    alone = [f"{place}/m.arpa", f"{place}/lines.txt", "--arpa", f"{place}/m.arpa"]
    status, _, err = call(score, capsys, *alone)
    assert status == 2 and "is an n-gram model itself" in err
