"""Abstractive summaries: words, neighbours, the mixture, the step, the beam, and the script."""

from __future__ import annotations

import dataclasses
import itertools
import json
from importlib.resources import files
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import call

from sparse_jax import optim, summarize
from sparse_jax.commands import summarize as script
from sparse_jax.runtime import loop
from sparse_jax.summarize import beam, pointer, training
from sparse_jax.summarize.neighbours import Neighbours
from sparse_jax.summarize.words import END, UNKNOWN, Words, join, split
from sparse_jax.text.segments import clean

ROOT = Path(__file__).resolve().parents[2]


SAMPLE = [
    json.loads(line)
    for line in (files("sparse_jax.search") / "sample.jsonl").read_text("utf-8").splitlines()
]
CONFIG = pointer.Config(
    size=14,
    outputs=9,
    text=7,
    neighbours=2,
    neighbour=3,
    summary=4,
    window=3,
    embed=4,
    read=4,
    hidden=8,
)


pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def params():
    """Random weights, large enough that the distributions are uneven."""
    rng = np.random.default_rng(1)
    like = jax.eval_shape(lambda: pointer.init(jax.random.key(0), config=CONFIG))
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.6, x.shape), jnp.float32), like)


@pytest.fixture(scope="module")
def batch() -> training.Batch:
    """Three pairs; ids 9 to 13 can only be copied, and words repeat."""
    source = [
        [2, 10, 3, 10, 4, -1, -1, 5, 12, -1, -1, -1, -1],
        [13, 2, 2, 3, 11, 6, 8, 2, 3, 7, 13, 9, 2],
        [4, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1],
    ]
    targets = [[2, 10, 3, END], [13, 8, END, -1], [4, UNKNOWN, END, -1]]
    cosines = [[0.5, 0.0], [0.9, 0.8], [0.0, 0.0]]
    return training.Batch(
        np.array(source, np.int32), np.array(cosines, np.float32), np.array(targets, np.int32)
    )


@pytest.fixture(scope="module")
def decoded(params, batch):
    """(encoded, written, log p of every next word) at all positions of the summaries."""
    source = jnp.asarray(batch.source)
    encoded = beam._read(params, source, jnp.asarray(batch.cosines), config=CONFIG)
    written = training.written_before(source, jnp.asarray(batch.targets), window=CONFIG.window)
    following = jax.jit(beam.next_log_probs, static_argnames="config")
    return encoded, written, following(params, encoded, written, config=CONFIG)


# Words ------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_tokens_give_the_text_back(text):
    assert join(split(text)) == " ".join(clean(text).split())


def test_ids_and_letters():
    words = Words.fit(["Fast tool", "fast Tool for X"], ["a Tool, FAST"] * 3, buckets=5)
    assert words.forms[: words.outputs] == ("\n", "\0")  # nothing was in three summaries
    assert {"Fast", "fast"} & set(words.forms) and "FAST" not in words.forms
    words = Words.fit(["Fast tool"] * 3, ["rare Tool"] * 3, buckets=5)
    assert words.forms[2:] == ("Fast", "tool", "rare") and words.outputs == 4
    ids, tokens = words.encode("TOOL unseen")
    assert ids[0] == 3 and ids[1] >= len(words.forms) and words.size == len(words.forms) + 5
    assert words.decode([2, ids[1], 3], [(ids, tokens)]) == "Fast unseen TOOL"


def test_neighbours_against_all_cosines():
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 60, rng.integers(1, 12)).astype(np.int32) for _ in range(40)]
    memory = Neighbours(texts, num_words=60)
    vectors = np.zeros((40, 60))
    for row, text in zip(vectors, texts, strict=True):
        row[text] = memory.rarity[text]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T - 2 * np.eye(40)
    numbers, found = memory.nearest(texts, count=3, skip=range(40))
    np.testing.assert_allclose(found, np.maximum(-np.sort(-cosines, axis=1)[:, :3], 0), atol=1e-6)
    assert not np.any(numbers == np.arange(40)[:, None])
    none, _ = memory.nearest([np.zeros(0, np.int32)], count=2)
    assert none.tolist() == [[-1, -1]]


# The distribution -------------------------------------------------------------------------------


def test_the_distribution_sums_to_one(decoded):
    _, _, log_p = decoded
    assert log_p.shape == (3, 4, CONFIG.outputs + CONFIG.source)
    np.testing.assert_allclose(np.exp(log_p).sum(axis=2), 1, atol=1e-5)


def test_training_and_decoding_agree(params, batch, decoded):
    encoded, written, log_p = decoded
    latest = params["embed"][written.latest].reshape(3, 4, -1)
    made = pointer.decode(params["trunk"], encoded, latest, written, config=CONFIG)
    logits = made.query @ params["out"].T + params["bias"][None, None, :]
    log_softmax = np.asarray(jax.nn.log_softmax(logits, axis=2))
    for b, t in zip(*np.nonzero(batch.targets >= 0), strict=True):
        word = int(batch.targets[b, t])
        output = word < CONFIG.outputs
        place = word if output else CONFIG.outputs + batch.source[b].tolist().index(word)
        softmax = np.full((3, 4), log_softmax[b, t, word] if output else -1e9, np.float32)
        got = pointer.log_prob(made, jnp.asarray(batch.source), jnp.asarray(batch.targets), softmax)
        np.testing.assert_allclose(got[b, t], log_p[b, t, place], atol=1e-4)


def test_copying_against_numpy(batch, decoded):
    encoded, written, _ = decoded
    query = np.random.default_rng(5).normal(size=(3, 4, CONFIG.read + 5)).astype(np.float32)
    keys = np.asarray(encoded.keys[..., CONFIG.read :])
    bias = np.where(batch.source >= 0, np.asarray(encoded.copyable), np.float32(-1e9))
    got = pointer._attend(jnp.asarray(query), keys, pointer._match(encoded, written), bias)
    starts = {0, 7, 10}  # of the text and of each neighbour
    for b, t in itertools.product(range(3), range(4)):
        before = [END, END, *np.maximum(batch.targets[b, :t], 0)]
        scores = np.zeros(CONFIG.source)
        for l, word in enumerate(batch.source[b]):
            shown = [
                END if l in starts else max(batch.source[b, l - 1], 0),
                END if {l, l - 1} & starts else max(batch.source[b, l - 2], 0),
            ]
            uses = list(batch.targets[b, :t]).count(word) if word >= 0 else 0
            match = [
                shown[0] == before[-1],
                shown == before[:-3:-1],
                shown[1] == before[-1],
                uses > 0,
                uses > 1,
            ]
            scores[l] = query[b, t, : CONFIG.read] @ keys[b, l] / CONFIG.read**0.5
            scores[l] += query[b, t, CONFIG.read :] @ np.array(match, float) + bias[b, l]
        expected = np.exp(scores - scores.max())
        np.testing.assert_allclose(got[b, t], expected / expected.sum(), atol=1e-5)


# The step ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def started():
    """(a fresh state, the jitted step)."""
    tx = optim.rowwise(optax.scale_by_adam())
    counts = np.arange(CONFIG.outputs)[::-1]
    state = training.init_state(jax.random.key(0), tx, counts, config=CONFIG, popular=2)
    return state, jax.jit(training.make_step(tx, active_size=6, learning_rate=1e-2, config=CONFIG))


@pytest.mark.slow
def test_a_step_changes_only_what_it_touches(started, batch):
    state, step = started
    last = training.Batch(*(np.repeat(x[2:], 3, axis=0) for x in batch[:3]))  # words 0, 1 and 4
    new, metrics = step(state, last)
    assert np.isfinite(metrics.loss)
    for name in ("embed", "copyable"):
        moved = np.asarray(state.params[name] != new.params[name]).reshape(CONFIG.size, -1)
        assert set(np.flatnonzero(moved.any(axis=1))) <= {END, UNKNOWN, 4}
        # The only word of its source is copied for certain, whatever its weight.
        assert moved[4].any() == (name == "embed")
    changed = np.asarray(state.params["bias"] != new.params["bias"])
    assert 4 <= changed.sum() <= 6  # the active set's


@pytest.mark.slow
def test_training_learns_to_copy(started, batch):
    state, step = started
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch)
        losses.append(float(metrics.loss))
    assert np.mean(losses[-5:]) < 0.4 * np.mean(losses[:5])
    found = beam.search(state.params, batch.source, batch.cosines, config=CONFIG, beams=3)
    assert found[1][0][1] == [13, 8]  # 13 can only be copied


# The beam ---------------------------------------------------------------------------------------


SHORT = dataclasses.replace(CONFIG, summary=3)


def exhaustive(params, encoded, next_log_probs) -> dict[tuple[int, ...], float]:
    """log p of every summary without a repeated pair, of one source."""
    source = encoded.source[0].tolist()
    found: dict[tuple[int, ...], float] = {}
    frontier: dict[tuple[int, ...], float] = {(): 0.0}
    for step in range(SHORT.summary):
        grown: dict[tuple[int, ...], float] = {}
        for prefix, so_far in frontier.items():
            targets = np.full((1, SHORT.summary), -1, np.int32)
            targets[0, :step] = prefix
            scores = np.asarray(next_log_probs(params, encoded, jnp.asarray(targets)))[0, step]
            found[prefix] = so_far + float(scores[END])
            for place, score in enumerate(scores.tolist()):
                word = place if place < SHORT.outputs else source[place - SHORT.outputs]
                repeated = (*prefix[-1:], word) in set(itertools.pairwise(prefix))
                if score > -60 and word > UNKNOWN and not repeated:
                    grown[(*prefix, word)] = so_far + score
        frontier = grown
    return found


def test_a_wide_beam_finds_the_best_of_all(params, batch):
    source, cosines = jnp.asarray(batch.source), jnp.asarray(batch.cosines)
    encoded = beam._read(params, source, cosines, config=SHORT)

    @jax.jit
    def next_log_probs(params, encoded, targets):
        written = training.written_before(encoded.source, targets, window=SHORT.window)
        return beam.next_log_probs(params, encoded, written, config=SHORT)

    found = beam.search(params, source, cosines, config=SHORT, beams=100)
    for row in (0, 1):
        one = jax.tree.map(lambda x, row=row: x[row : row + 1], encoded)
        every = exhaustive(params, one, next_log_probs)
        best = sorted(every.items(), key=lambda x: -x[1])[:3]
        assert [tuple(words) for _, words in found[row][:3]] == [words for words, _ in best]
        got = [score for score, _ in found[row][:3]]
        np.testing.assert_allclose(got, [score for _, score in best], atol=1e-4)
    with pytest.raises(ValueError, match="beams = 0"):
        beam.search(params, source, cosines, config=SHORT, beams=0)


def test_no_pair_of_words_twice(params, batch):
    """Weights that say one word after the other for ever."""
    eager = params | {"bias": jnp.full(CONFIG.outputs, -50.0).at[jnp.array([3, 4])].set(50.0)}
    eager["trunk"] = params["trunk"] | {"mix": jnp.zeros_like(params["trunk"]["mix"])}
    for lines in beam.search(eager, batch.source, batch.cosines, config=CONFIG, beams=3):
        for _, words in lines:
            pairs = list(itertools.pairwise(words))
            assert len(set(pairs)) == len(pairs)


# From texts to lines ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    return [(row["text"], row["title"]) for row in SAMPLE[:64]]


@pytest.fixture(scope="module")
def model(pairs):
    return summarize.fit(pairs, epochs=2)


@pytest.mark.slow
def test_one_seed_one_model_and_what_is_saved_comes_back(model, pairs, tmp_path):
    (line,) = model.summarize([pairs[0][0]])
    again = summarize.fit(pairs, epochs=2)
    assert jax.tree.all(jax.tree.map(lambda x, y: bool((x == y).all()), model.params, again.params))
    summarize.save(model, tmp_path)
    assert not [p for p in tmp_path.rglob("*") if p.suffix in {".pkl", ".pickle"}]
    assert summarize.load(tmp_path).summarize([pairs[0][0]]) == [line]
    assert model.summarize([""]) == [""] and model.summarize([]) == []
    with pytest.raises(ValueError, match=r"model\.json"):
        summarize.load(tmp_path / "nothing")


@pytest.mark.slow
def test_errors_and_stopping(pairs):
    with pytest.raises(ValueError, match="at least 2"):
        summarize.fit(pairs[:1])
    with pytest.raises(ValueError, match="pair 1 is empty"):
        summarize.fit([("a", "b"), ("a", " ")])
    calls = []

    def look(seen: loop.Look) -> bool:
        calls.append((seen.step, seen.total, seen.steps))
        return True

    summarize.fit(pairs[:4], epochs=50, batch_size=2, neighbours=0, look=look)
    assert calls == [(20, 100, 20)]
    with pytest.raises(loop.Divergence, match="lower the learning rate"):
        summarize.fit(pairs[:4], epochs=50, batch_size=2, neighbours=0, learning_rate=1e30)


# The script -------------------------------------------------------------------------------------


def test_groups_of_families():
    rows = [("a", "one two", "x"), ("b", "three", "X"), ("c", "three", "y"), ("d", "four", "z")]
    found = [script.Pair(*row) for row in rows]
    assert script.groups(found, "family") == ["a", "a", "a", "d"]
    assert script.groups(found, "package") == ["a", "b", "c", "d"]


def test_rouge_by_hand():
    pytest.importorskip("rouge_score")
    got = script.rouge(["the small red cat"], ["The cat, small"])
    assert got["rouge1"] == pytest.approx(100 * 2 * 3 / 7)
    assert got["rouge2"] == 0.0
    assert got["rougeL"] == pytest.approx(100 * 2 * 2 / 7)


def write_pairs(path: Path, count: int) -> str:
    rows = [json.dumps({k: row[k] for k in ("id", "title", "text")}) for row in SAMPLE[:count]]
    path.write_text("\n".join(rows), "utf-8")
    return str(path)


@pytest.mark.slow
def test_script_evaluates(tmp_path, capsys):
    pytest.importorskip("rouge_score")
    data, out = write_pairs(tmp_path / "pairs.jsonl", 100), tmp_path / "r.json"
    status, told, _ = call(script, capsys, "evaluate", data, "--epochs", "1", "--json", str(out))
    assert status == 0 and "the first sentence" in told and "held-out pairs" in told
    results = json.loads(out.read_text())
    for name in ("rouge1", "rouge2", "rougeL"):
        for of in ("", "written_", "lead_", "nearest_", "extract_"):
            assert 0 <= results[of + name] <= 100
        assert results[name] == results[f"{results['way']}_{name}"]
    assert results["train_pairs"] + results["test_pairs"] == 100 and results["train_seconds"] > 0
    assert {"id", "reference", "summary"} == set(results["samples"][0])


@pytest.mark.slow
def test_script_trains_and_writes(tmp_path, capsys):
    data, folder = write_pairs(tmp_path / "pairs.jsonl", 64), str(tmp_path / "model")
    assert call(script, capsys, "train", data, "--epochs", "1", "--out", folder)[0] == 0
    text = tmp_path / "text.txt"
    text.write_text(SAMPLE[0]["text"], "utf-8")
    status, told, _ = call(script, capsys, str(text), "--model", folder)
    assert status == 0 and told.count("\n") == 1
    status, told, _ = call(script, capsys, str(text), "--max-words", "10")
    assert status == 0 and len(told.split()) <= 11


def test_both_kinds_of_rows(tmp_path):
    rows = [{"id": "x", "text": "T", "title": "S"}, {"source": ["A.", "B."], "target": ["C", "D"]}]
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")
    assert script.read_pairs(str(path)) == [("x", "T", "S"), ("2", "A. B.", "C")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no pair"),
        ("{}", 'line 1: no "text"'),
        ("{", "no JSON"),
        ('{"source": ["a"], "target": [" "]}', 'no "title"'),
    ],
)
def test_script_errors(tmp_path, capsys, content, message):
    data = tmp_path / "bad.jsonl"
    data.write_text(content, "utf-8")
    status, _, error = call(script, capsys, "evaluate", str(data))
    assert status == 2 and message in error
    assert call(script, capsys, str(tmp_path / "none.txt"))[0] == 2
    assert call(script, capsys, "train", str(data))[0] == 2
