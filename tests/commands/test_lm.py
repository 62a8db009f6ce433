"""The language-model scripts end to end, and Kneser-Ney against hand-made counts."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import threads
from in_process import call

ROOT = Path(__file__).resolve().parents[2]

import baseline_lm  # noqa: E402
from kneser_ney import KneserNey, modified_discounts  # noqa: E402

from sparse_jax import lm  # noqa: E402
from sparse_jax.commands.lm import evaluate as eval_lm  # noqa: E402
from sparse_jax.commands.lm import generate  # noqa: E402
from sparse_jax.commands.lm import options as lm_options  # noqa: E402
from sparse_jax.commands.lm import train as train_lm  # noqa: E402
from sparse_jax.lm import corpus as lm_data  # noqa: E402
from sparse_jax.lm.text import Corpus, python_topics  # noqa: E402

SMALL = ["--rows", "20000", "--hidden", "32", "--active", "256", "--batch-size", "256"]
SMALL += ["--epochs", "3"]
KEYS = """parameters tokens_per_second test_perplexity test_bits_per_byte peak_rss_bytes
madds_per_token dense_madds_per_token""".split()


pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def quick_compiles():
    """By LLVM alone: without XLA's emitters of fusions bits depend on the number of threads."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
    jax.clear_caches()


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """A small part of Python's own reference text, as a file of documents."""
    path = tmp_path_factory.mktemp("text") / "topics.txt"
    path.write_text("\f".join(python_topics()[:25])[:60_000], encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory, text):
    """(checkpoint directory, results) of one short run."""
    folder = tmp_path_factory.mktemp("model")
    status = train_lm.main(
        [text, *SMALL, "--checkpoint", f"{folder}/c", "--json", f"{folder}/r.json"]
    )
    assert status == 0
    return f"{folder}/c", json.loads((folder / "r.json").read_text())


@pytest.mark.slow
def test_trains_and_reports(model):
    _, results = model
    assert set(KEYS) <= set(results)
    # The most frequent words' shares alone give about 140.
    assert results["test_perplexity"] < 50
    assert results["parameters"] > 20_000 * 64
    assert 0 < results["madds_per_token"] < results["dense_madds_per_token"]


def test_rows_of_bfloat16_reach_the_model():
    given = train_lm.parse_args(["x.txt", "--dtype", "bfloat16"])
    assert lm_options.make_config(given, 100).dtype == "bfloat16"
    assert lm_options.make_config(train_lm.parse_args(["x.txt"]), 100).dtype == "float32"


@pytest.mark.slow
def test_rows_of_bfloat16_are_kept_and_scored(text, tmp_path, capsys):
    out, once = str(tmp_path / "c"), [*SMALL[:-1], "1"]
    assert train_lm.main([text, *once, "--dtype", "bfloat16", "--checkpoint", out]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert lm.load(out).memory.rows.dtype == jnp.bfloat16
    assert eval_lm.main([out, "--json", str(tmp_path / "e.json")]) == 0
    again = json.loads((tmp_path / "e.json").read_text())
    assert again["test_perplexity"] == pytest.approx(told["test_perplexity"], rel=1e-6)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bits(model, text, tmp_path, capsys):
    _, whole = model
    options = [text, *SMALL, "--checkpoint", f"{tmp_path}/c", "--save-every", "10"]
    command = [sys.executable, str(ROOT / "scripts" / "train_lm.py"), *options]
    # One thread here, as many as there are in this process. Its compiler must be this one's, too.
    env = threads.environment(1) | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env
    ) as child:
        deadline = time.monotonic() + 200
        done = re.compile(r"\d+_step_\d+")
        while time.monotonic() < deadline and child.poll() is None:
            if any(done.fullmatch(path.name) for path in tmp_path.glob("c/*")):
                break
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=60)
    status, out, err = call(train_lm, capsys, *options, "--resume", "--json", f"{tmp_path}/r.json")
    assert status == 0, err
    assert "resumed at step" in out
    results = json.loads((tmp_path / "r.json").read_text())
    assert results["test_perplexity"] == whole["test_perplexity"]
    assert results["weights_sha256"] == whole["weights_sha256"]
    status, _, err = call(train_lm, capsys, *options, "--resume", "--lr", "1")
    assert status == 2 and "other options (--lr was 0.002, is 1.0): resume with the same" in err


@pytest.mark.slow
def test_scores_and_writes(model, text, capsys):
    folder, results = model
    status, out, err = call(
        eval_lm, capsys, folder, "--sparse", "--candidates", "32", "--popular", "64"
    )
    assert status == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["test_perplexity"] == pytest.approx(results["test_perplexity"], rel=1e-6)
    assert found["test_bits_per_byte"] == pytest.approx(results["test_bits_per_byte"], rel=1e-6)
    assert found["sparse_words_scored"] < results["vocabulary"] / 2
    assert found["sparse_test_perplexity"] < 2 * found["test_perplexity"]

    for options in (["--tokens", "8"], ["--tokens", "4", "--beams", "2"]):
        status, out, err = call(generate, capsys, folder, "The statement", *options)
        assert status == 0, err
        assert len(out.split()) >= 4


@pytest.mark.slow
def test_a_run_killed_before_its_first_save_leaves_the_model_whole(
    model, tmp_path, capsys, monkeypatch
):
    folder = str(shutil.copytree(model[0], tmp_path / "c"))
    other = tmp_path / "other.txt"
    other.write_text("wholly different words and other words " * 400, encoding="utf-8")

    def die(*_args, **_more):
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(train_lm.loop, "train", die)
        assert call(train_lm, capsys, str(other), *SMALL, "--checkpoint", folder)[0] == 137
    status, out, err = call(eval_lm, capsys, folder)
    assert status == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["test_perplexity"] == pytest.approx(model[1]["test_perplexity"], rel=1e-6)


@pytest.mark.slow
def test_divergence_is_told_and_saves_nothing(model, text, tmp_path, capsys):
    folder = str(shutil.copytree(model[0], tmp_path / "c"))
    before = {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
    options = [text, *SMALL, "--checkpoint", folder, "--save-every", "10", "--lr", "1e30"]
    status, _, err = call(train_lm, capsys, *options)
    assert status == 2 and re.search(r"step \d+ of \d+ .*lower", err)
    assert {p: p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_baselines_score_the_same_tokens(model, text, capsys):
    _, results = model
    small = ["--width", "32", "--depth", "1", "--heads", "2", "--window", "32", "--active", "256"]
    for name, options in (("kn", []), ("transformer", [*small, "--epochs", "2", "--lr", "1e-2"])):
        status, out, err = call(baseline_lm, capsys, name, text, *options)
        assert status == 0, err
        found = json.loads(out.splitlines()[-1])
        for key in ("test_tokens", "vocabulary", "train_tokens"):
            assert found[key] == results[key]
        assert 1 < found["test_perplexity"] < results["vocabulary"] / 2


@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (train_lm, ["--resume"], "--resume needs --checkpoint"),
        (train_lm, ["--batch-size", "40"], "--batch-size 40: must be a multiple of 32"),
        (train_lm, ["no-such-file.txt"], "no-such-file.txt"),
        (eval_lm, ["no-such-folder"], "no-such-folder has no model.json"),
        (generate, ["no-such-folder"], "no-such-folder has no model.json"),
    ],
)
def test_errors_name_the_cause(script, options, message, capsys):
    status, _, err = call(script, capsys, *options)
    assert status == 2
    assert message in err


def test_small_texts_get_small_batches():
    sizes = [train_lm.choose_batch_size(n) for n in (0, 102_399, 204_800, 409_600, 10**7)]
    assert sizes == [128, 128, 256, 512, 1024]


# Data -------------------------------------------------------------------------------------------


def test_test_and_validation_text_is_not_trained_on():
    texts = [f"document number {i} says {'word ' * 30}" for i in range(40)]
    train, test = lm_data.hold_out(texts)
    assert sorted(train + test) == sorted(texts) and len(test) == 2
    head, tail = lm_data.hold_out(["line\n" * 100])
    assert head[0] + tail[0] == "line\n" * 100 and 0.03 < len(tail[0]) / 500 < 0.07
    corpus = Corpus(np.arange(10, 9010, dtype=np.int32), 1, 0)
    rest, taken = lm_data.take_stretches(corpus)
    assert not set(rest.tokens[rest.tokens > 1]) & set(taken.tokens[taken.tokens > 1])
    assert rest.tokens.size + taken.tokens.size == 9000


# Kneser-Ney -------------------------------------------------------------------------------------


def test_discounts_are_chen_and_goodmans():
    counts = np.array([1] * 10 + [2] * 4 + [3] * 2 + [4] * 1 + [9])
    y = 10 / 18
    expected = [0, 1 - 2 * y * 4 / 10, 2 - 3 * y * 2 / 4, 3 - 4 * y * 1 / 2]
    np.testing.assert_allclose(modified_discounts(counts), expected)
    np.testing.assert_allclose(modified_discounts(np.array([5, 5])), [0, 0.5, 1, 1.5])


def test_bigram_by_hand():
    # Tokens a b a b a c; bigrams ab 2, ba 2, ac 1; fallback discounts .5, 1, 1.5.
    model = KneserNey(np.array([0, 1, 0, 1, 0, 2]), vocabulary=3, order=2)
    # Continuation counts of a, b, c are 1 each: (1 - .5)/3 + .5/3 ... each 1/3.
    third = 1 / 3
    # After a: counts b 2, c 1; discounts 1 and .5, so 1.5/3 goes to the lower order.
    expected = [third, (2 - 1) / 3 + 0.5 * third]
    np.testing.assert_allclose(np.exp(model.log_probs(np.array([0, 1]))), expected)
    expected = [third, (1 - 0.5) / 3 + 0.5 * third]
    np.testing.assert_allclose(np.exp(model.log_probs(np.array([0, 2]))), expected)
    # c was never a context: the lower order alone.
    np.testing.assert_allclose(np.exp(model.log_probs(np.array([2, 2])))[1], third)


def naive(tokens, order, vocabulary, document):
    """The same model, gram by gram with dictionaries."""
    grams: list[dict[tuple[int, ...], int]] = [{} for _ in range(order + 1)]
    for end in range(len(tokens)):
        for n in range(1, order + 1):
            gram = tuple(tokens[end - n + 1 : end + 1])
            if len(gram) == n and document not in gram[1:-1]:
                grams[n][gram] = grams[n].get(gram, 0) + 1
    counts = [{} for _ in range(order + 1)]
    for n in range(1, order + 1):
        for gram, raw in grams[n].items():
            continued = sum(1 for longer in grams[n + 1] if longer[1:] == gram) if n < order else 0
            own = n == order or (n > 1 and gram[0] == document)
            counts[n][gram] = raw if own else continued

    def prob(word, context):
        if len(context) == 0:
            lower = 1 / vocabulary
        else:
            lower = prob(word, context[1:])
        n = len(context) + 1
        own = {g[-1]: c for g, c in counts[n].items() if g[:-1] == context}
        total = sum(own.values())
        if total == 0:
            return lower
        cuts = modified_discounts(np.array(list(counts[n].values())))
        cut = lambda c: min(cuts[min(c, 3)], c)  # noqa: E731
        backoff = sum(cut(c) for c in own.values()) / total
        here = own.get(word, 0)
        return (here - cut(here)) / total + backoff * lower

    return prob


@pytest.mark.parametrize("document", [None, 1])
def test_matches_a_model_made_with_dictionaries_and_sums_to_one(document):
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, 6, 300)
    tokens[rng.random(300) < 0.3] = 2
    fitted = KneserNey(tokens, vocabulary=6, order=3, document=document)
    prob = naive(tokens.tolist(), 3, 6, document)
    for start in range(40, 60):
        context = tokens[start : start + 2]
        if document in context.tolist()[1:] or document in context.tolist()[:1]:
            continue
        tested = [np.append(context, word) for word in range(6)]
        got = [np.exp(fitted.log_probs(t))[-1] for t in tested]
        expected = [prob(word, tuple(context.tolist())) for word in range(6)]
        np.testing.assert_allclose(got, expected, rtol=1e-9)
        assert sum(got) == pytest.approx(1.0)
