"""Faults that public bug reports of other tools led to, in the language model.

| row | kind | test |
|---|---|---|
| 4, 22, 23 | text of all scripts and encodings | test_lm_text_faults.py |
| 7 | evaluation on training text | test_evaluation_is_…, test_what_was_held_…, test_training_… |
| 8b, 8c | resumed on other data | test_a_run_goes_on_with_its_own_data_alone |
| 9 | files of one model apart | test_a_model_is_replaced_…, tests/commands/test_lm.py |
| 10 | samplers at their edges | test_samplers_at_their_edges, test_values_that_are_no_… |
| 11 | perplexity overflows | test_a_perplexity_too_large_is_infinite, test_json_is_json |
| 12 | divergence | test_weights_…, tests/commands/test_lm.py, test_preference_faults.py |
| 14 | means begun with a zero | test_the_mean_of_equal_losses_is_that_loss |
| 21 | another command's save | test_a_run_goes_on_with_its_own_data_alone |
| 24 | unknown words unmentioned | test_the_share_of_unknown_words_stands_beside_each_perplexity |
| 25 | repetition penalty fades | test_a_penalty_ends_loops |
| 41 | no document as long as the order | test_orders_longer_than_any_document |
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from in_process import call
from kneser_ney import KneserNey

from sparse_jax import lm
from sparse_jax.commands import report
from sparse_jax.commands.lm import evaluate as eval_lm
from sparse_jax.commands.lm import generate
from sparse_jax.commands.lm import train as train_lm
from sparse_jax.commands.tuning_run import mean_loss
from sparse_jax.lm import corpus, evaluate, sampling, text
from sparse_jax.runtime import checkpoint, loop, saved
from sparse_jax.runtime.lock import LockError, locked

pytestmark = pytest.mark.usefixtures("quick_compiles")

SMALL = ["--rows", "4096", "--hidden", "16", "--active", "16", "--batch-size", "128"]
ANIMALS = "cat dog cow pig hen rat bat fox owl elk ape bee ant emu yak cod eel jay gnu ram".split()
TOOLS = "saw axe awl hoe pan pot jar lid cup fan mop rag pin peg nut bit jig vat die rod".split()


def lines(words: list[str], count: int = 150, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    return "\n\n".join(" ".join(rng.choice(words, 8)) + "." for _ in range(count))


def last(out: str) -> dict:
    """The JSON of a command's last line, by rules that know no NaN."""

    def refuse(name: str) -> None:
        raise ValueError(name)

    return json.loads(out.splitlines()[-1], parse_constant=refuse)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, request):
    """(directory, options, results) of a model of animals, tested on others."""
    folder = tmp_path_factory.mktemp("animals")
    (folder / "train.txt").write_text(lines(ANIMALS))
    (folder / "test.txt").write_text(lines([*ANIMALS, "unicorn"], 20, seed=1))
    options = [f"{folder}/train.txt", "--test", f"{folder}/test.txt", *SMALL]
    out = folder / "out.json"
    status = train_lm.main([*options, "--checkpoint", f"{folder}/m", "--json", str(out)])
    assert status == 0
    return folder / "m", options, json.loads(out.read_text())


# What a model knows of its data -----------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_is_of_the_test_text_or_refused(trained, tmp_path, capsys):
    folder, options, results = trained
    status, out, err = call(eval_lm, capsys, str(folder))
    assert status == 0, err
    assert last(out)["test_perplexity"] == pytest.approx(results["test_perplexity"], rel=1e-6)
    test = Path(options[2])
    kept = test.read_bytes()
    try:
        test.write_bytes(kept + b" more")
        status, _, err = call(eval_lm, capsys, str(folder))
        assert status == 2 and "test.txt has changed" in err and "--test FILE" in err
        test.unlink()
        assert call(eval_lm, capsys, str(folder))[0] == 2
    finally:
        test.write_bytes(kept)


def test_what_was_held_out_is_known_while_the_text_stays(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\f".join(f"document {i} says so and so" for i in range(40)))
    how = {"kind": "word", "min_count": 1, "bpe_size": 0}
    data = corpus.load([str(path)], [], **how)
    held_out = corpus.load_test(data.record)
    assert text.digest(held_out) == data.record.test_sha256 and len(held_out) == 2
    path.write_text(path.read_text() + "\fone more")
    with pytest.raises(ValueError, match=r"a\.txt has changed"):
        corpus.load_test(data.record)
    with pytest.raises(ValueError, match="has no test text: give a text to score by --test"):
        corpus.load_test(corpus.NO_RECORD)
    with pytest.raises(ValueError, match="too short to hold out"):
        (tmp_path / "b.txt").write_text("word\n")
        corpus.load([str(tmp_path / "b.txt")], [], **how)
    twice = [f"text {i // 2}" for i in range(60)]
    train, test = corpus.hold_out(twice)
    assert not set(train) & set(test)


@pytest.mark.slow
def test_training_text_as_test_text_is_told(trained, capsys):
    folder, options, _ = trained
    status, _, err = call(eval_lm, capsys, str(folder), "--test", options[0])
    assert status == 0 and "train.txt is a test text that the model was trained on" in err
    small = text.Corpus(np.arange(4, 900, dtype=np.int32), 1, 0)
    train, validation = corpus.take_stretches(small)
    assert train.tokens.size == 896 and validation.tokens.size == 0


@pytest.mark.slow
def test_a_run_goes_on_with_its_own_data_alone(trained, tmp_path, capsys):
    folder, options, results = trained
    here = ["--checkpoint", str(folder), "--resume"]
    status, out, err = call(train_lm, capsys, *options, *here)
    assert status == 0, err
    assert last(out)["weights_sha256"] == results["weights_sha256"]
    for change, message in (
        ({0: lines(TOOLS)}, "the training text: it was"),
        ({0: lines(ANIMALS) + " cat"}, "it was"),
        ({2: lines(ANIMALS, 20, seed=5)}, "the test text"),
    ):
        changed = list(options)
        for place, content in change.items():
            (tmp_path / "new.txt").write_text(content)
            changed[place] = str(tmp_path / "new.txt")
        status, _, err = call(train_lm, capsys, *changed, *here)
        assert status == 2 and message in err and "other data" in err
    train = Path(options[0])
    kept = train.read_text()
    try:
        train.write_text(kept + " cat")
        status, _, err = call(train_lm, capsys, *options, *here)
        assert status == 2 and "train.txt has changed, from" in err
    finally:
        train.write_text(kept)
    status, _, err = call(train_lm, capsys, *options, *here, "--min-count", "2")
    assert status == 2 and "--min-count was 5, is 2" in err
    # A finished model without a checkpoint, as `lm preference --save` leaves it; and nothing.
    lm.save(lm.load(folder), tmp_path / "tuned")
    for name in ("tuned", "nothing"):
        target = ["--checkpoint", str(tmp_path / name), "--resume"]
        status, _, err = call(train_lm, capsys, *options, *target)
        assert status == 2 and "no checkpoint of `lm train` to go on from" in err
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("extra", [{"kind": "xmc train"}, {"epoch": 1}])
def test_another_commands_checkpoint_is_named(extra, tmp_path, capsys):
    """Before anything is read: there is no such text."""
    checkpoint.save(tmp_path / "c", {"w": jnp.ones(3)}, step=1, extra=extra)
    target = ["--checkpoint", str(tmp_path / "c"), "--resume"]
    status, _, err = call(train_lm, capsys, str(tmp_path / "no.txt"), *target)
    assert status == 2 and "holds a checkpoint of another command" in err


@pytest.mark.slow
def test_a_record_of_another_version_is_refused(trained, tmp_path, capsys):
    folder = shutil.copytree(trained[0], tmp_path / "m")
    about = json.loads((folder / "model.json").read_text())
    del about["config"]["record"]["pairs"]
    (folder / "model.json").write_text(json.dumps(about))
    status, _, err = call(eval_lm, capsys, str(folder))
    assert status == 2 and "another version does (pairs): train it anew" in err


def test_a_vocabulary_made_otherwise_is_seen():
    was = corpus.split(["a b a b c"], ["a"], min_count=1).record
    assert was.differences(corpus.split(["a b a b c"], ["a"], min_count=2).record) == [
        "the vocabulary"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("write", [1, 2])
def test_a_model_is_replaced_as_a_whole_or_not_at_all(trained, tmp_path, monkeypatch, write):
    folder = shutil.copytree(trained[0], tmp_path / "m")
    before = lm.load(folder)
    calls = []

    def die(*given: object) -> None:
        calls.append(given)
        if len(calls) == write:
            raise OSError(28, "no space left")
        os.rename(*given)

    monkeypatch.setattr("sparse_jax.runtime.files.os.replace", die)
    params = jax.tree.map(lambda x: x + 1, before.params)
    with pytest.raises(OSError, match="no space"):
        lm.save(lm.LanguageModel(**{**before.__dict__, "params": params}), folder)
    now = lm.load(folder)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), now.params, before.params))
    assert now.vocabulary.words == before.vocabulary.words


def test_a_model_of_another_kind_is_not_trained_over(tmp_path, capsys):
    """It is refused before anything is read: there is no such text."""
    saved.save(tmp_path / "m", kind="xmc", config={}, arrays={"w": np.ones(3)})
    target = ["--checkpoint", str(tmp_path / "m")]
    status, _, err = call(train_lm, capsys, str(tmp_path / "no.txt"), *target)
    assert status == 2 and "holds a model of kind 'xmc', which would be lost" in err
    assert saved.load(tmp_path / "m", kind="xmc").arrays["w"].tolist() == [1, 1, 1]


@pytest.mark.slow
def test_one_process_writes_to_a_checkpoint(trained, tmp_path, capsys):
    program = "import sys, time; from sparse_jax.runtime.lock import locked\n"
    program += "with locked(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "held\n"
        options = [*trained[1], "--checkpoint", str(tmp_path)]
        status, _, err = call(train_lm, capsys, *options)
        assert status == 2 and f"in use by process {child.pid}" in err
        child.kill()
    with locked(tmp_path), pytest.raises(LockError, match=f"process {os.getpid()}"):
        with locked(tmp_path):
            pass


# Figures ----------------------------------------------------------------------------------------


def test_a_perplexity_too_large_is_infinite():
    assert evaluate.Score(1e9, 10, 5).perplexity == float("inf")
    assert evaluate.perplexity(1.0) == pytest.approx(np.e)


def test_json_is_json(tmp_path, capsys):
    report.tell({"a": [float("inf"), float("nan")], "b": (1, -float("inf"))}, f"{tmp_path}/x.json")
    expected = {"a": ["Infinity", None], "b": [1, "-Infinity"]}
    assert last(capsys.readouterr().out) == expected
    assert json.loads((tmp_path / "x.json").read_text()) == expected
    assert float(expected["a"][0]) == float("inf")


def test_weights_that_are_no_numbers_end_a_run_that_saves_nothing():
    def step(w, batch):
        return w * jnp.inf, loop.LossMetrics(jnp.float32(1))

    with pytest.raises(loop.Divergence, match="the weights after step 1 of 1"):
        loop.train(jnp.float32(1), step, lambda start: iter([0]), steps=1)


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_a_run_whose_weights_are_numbers(loss):
    kept: list[float] = []

    def step(w, batch):
        return w + 1, loop.LossMetrics(jnp.float32(batch))

    with pytest.raises(loop.Divergence, match=f"the loss of step 2 of 3 is {loss}"):
        more = {"save": lambda w: kept.append(float(w)), "save_every": 1}
        loop.train(jnp.float32(0), step, lambda start: iter([1.0, loss, 1.0]), steps=3, **more)
    assert kept == [1.0]


def test_the_mean_of_equal_losses_is_that_loss():
    looks: list[loop.Look] = []

    def step(state, batch):
        return state, loop.LossMetrics(jnp.float32(2))

    clock = loop.Clock()
    more = {"clock": clock, "look": looks.append, "look_every": 2}
    loop.train(0, step, lambda start: iter(range(3)), steps=3, **more)
    assert mean_loss(looks) == 2.0 and clock.means()["loss"] == 2.0


@pytest.mark.slow
def test_the_share_of_unknown_words_stands_beside_each_perplexity(trained, capsys):
    folder, _, results = trained
    status, out, _ = call(eval_lm, capsys, str(folder), "--sparse", "--candidates", "8")
    found = last(out)
    share = found["test_unknown_share"]
    assert status == 0 and 0 < share == results["test_unknown_share"]
    shown = [line for line in out.splitlines() if "_perplexity " in line]
    assert len(shown) == 2 and all(f"({100 * share:.1f} % of them unknown)" in x for x in shown)
    assert text.Corpus(np.array([0, 5, 0, 1]), 1, 4).unknown_share == 0.5
    assert text.Corpus(np.array([], np.int32), 0, 0).unknown_share == 0.0


@pytest.mark.parametrize("order", [4, 5, 9])
def test_orders_longer_than_any_document(order):
    for tokens, longest, document in (([2, 1, 2, 1], 3, 1), ([2, 3], 2, None), ([2], 1, None)):
        given = {"vocabulary": 6, "document": document}
        model = KneserNey(np.array(tokens), order=order, **given)
        short = KneserNey(np.array(tokens), order=longest, **given)
        np.testing.assert_array_equal(model.log_probs(tokens), short.log_probs(tokens))
        p = np.exp([model.log_probs(np.array([2, word]))[1] for word in range(6)])
        assert p.sum() == pytest.approx(1)
    with pytest.raises(ValueError, match="0 tokens"):
        KneserNey(np.array([], int), vocabulary=3, order=order)


# Writing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1e-45, 1e-40, 1e-38, 1e-20, 1e-6])
@pytest.mark.parametrize("top_p", [1.0, 0.9999999999, 0.95, 1e-9, 1e-45])
@pytest.mark.parametrize("top_k", [0, 1, 7, 5000])
def test_samplers_at_their_edges(temperature, top_p, top_k):
    rng = np.random.default_rng(0)
    log_p = jax.nn.log_softmax(jnp.asarray(rng.normal(0, 3, (16, 50)), jnp.float32))
    log_p = log_p.at[:, text.UNKNOWN].set(-1e-3)
    none = jnp.zeros((16, 4), jnp.int32), jnp.zeros(16, jnp.int32)
    how = sampling.Sampling(temperature=temperature, top_p=top_p, top_k=top_k)
    scores = jax.jit(sampling.adjust, static_argnums=3)(log_p, *none, how)
    drawn = jax.random.categorical(jax.random.key(1), scores, axis=1)
    np.testing.assert_array_equal(drawn, 1 + jnp.argmax(log_p[:, 1:], axis=1))


@pytest.mark.parametrize("temperature", [1e-4, 1e-5, 1e-6])
def test_words_that_are_nearly_alike_keep_their_odds_in_the_cold(temperature):
    """The best has 0 at any temperature: far from it float32 has no room for what tells two."""
    best = np.float32(-5)
    second = np.nextafter(best, np.float32(-6))
    log_p = jnp.full((1, 8), -9.0).at[0, 5].set(best).at[0, 6].set(second)
    none = jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32)
    scores = np.asarray(sampling.adjust(log_p, *none, sampling.Sampling(temperature=temperature)))
    assert scores[0, 5] == 0
    assert scores[0, 6] == pytest.approx((float(second) - float(best)) / temperature, rel=1e-4)


def test_where_all_words_are_barred_the_document_ends():
    log_p = jnp.full((1, 8), -jnp.inf).at[0, text.UNKNOWN].set(0.0)
    none = jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, jnp.int32)
    for more in ({}, {"top_p": 0.5}, {"top_k": 2, "temperature": 0.1}):
        scores = sampling.adjust(log_p, *none, sampling.Sampling(**more))
        assert np.flatnonzero(np.isfinite(np.asarray(scores)[0])).tolist() == [text.DOCUMENT]


@pytest.mark.parametrize("name", ["temperature", "top_p", "repetition_penalty"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_values_that_are_no_numbers_are_refused(name, value, capsys):
    with pytest.raises(ValueError, match=f"{name} = "):
        sampling.Sampling(**{name: value})
    status, _, err = call(generate, capsys, "m", "x", f"--{name.replace('_', '-')}", str(value))
    assert status == 2 and f"--{name.replace('_', '-')} {value}: must be" in err
    big = sampling.Sampling(top_k=2000)
    with pytest.raises(ValueError, match="top_k = 2000: must be at most 1024"):
        sampling.adjust(jnp.zeros((1, 3000)), jnp.zeros((1, 1), jnp.int32), jnp.zeros(1, int), big)


@pytest.mark.parametrize("penalty", [1.0, 1.1, 1.3, 2.0])
@pytest.mark.parametrize("period", [1, 2, 5])
def test_a_penalty_ends_loops(penalty, period):
    """A model that is sure of some words in turn: p = 1 - 1e-6."""
    history = list(range(4, 4 + period)) * 2
    how = sampling.Sampling(temperature=0, repetition_penalty=penalty)
    run = jax.jit(lambda *given: sampling.adjust(*given, how))
    for _ in range(80):
        p = np.full(12, 1e-7)
        p[4 + len(history) % period] = 1 - 1e-6
        shown = np.ones(66, np.int32)
        known = min(len(history), 66)
        shown[66 - known :] = history[-known:]
        scores = run(*map(jnp.asarray, (np.log(p)[None].astype("f4"), shown[None], [known])))
        history.append(int(jnp.argmax(scores)))
    ended = [i for i, word in enumerate(history) if word != 4 + i % period]
    assert bool(ended) == (penalty > 1)
    assert not ended or ended[0] <= {1.1: 30, 1.3: 22, 2.0: 18}[penalty] + 5 * period


def test_a_penalty_counts_each_time_and_each_token_before_it():
    history = jnp.array([[9, 7, 8, 9, 7]])
    log_p = jnp.full((1, 12), -2.0)
    how = sampling.Sampling(repetition_penalty=2.0, unknown=True)
    halved = (-2.0 - sampling.adjust(log_p, history, jnp.array([5]), how)[0]) / np.log(2)
    # 8 once, after the 9 7 that stand before now, too; 7 and 9 twice.
    assert np.round(halved, 4).tolist() == [0, 0, 0, 0, 0, 0, 0, 2, 3, 2, 0, 0]
    halved = (-2.0 - sampling.adjust(log_p, history, jnp.array([3]), how)[0]) / np.log(2)
    assert np.round(halved, 4).tolist() == [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]
