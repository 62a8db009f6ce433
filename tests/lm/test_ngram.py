"""n-gram models from ARPA files against the recursion that defines them, and KenLM's figures."""

from __future__ import annotations

import gzip
import json
import math
import random

import arpa_files
import numpy as np
import pytest

from sparse_jax.commands.lm import score
from sparse_jax.lm import arpa, ngram, ngram_sums

GOLDEN = r"""made by hand

\data\
ngram 1=6
ngram 2=4
ngram 3=2

\1-grams:
-1.0	<unk>
-99	<s>	-0.30103
-0.9	</s>
-0.7	fox	-0.2
-0.6	red	-0.4
-0.8	runs	0.1

\2-grams:
-0.5	<s> red	-0.11
-0.2	red fox	-0.22
-0.3	fox runs	-0.33
-0.1	runs </s>

\3-grams:
-0.05	<s> red fox
-0.04	fox runs </s>

\end\
"""
# log10 with the end, as kenlm 0.3.0 gives it to six digits, and the same by hand.
KENLM = {
    "red fox runs": (-1.110000, -0.5 - 0.05 + (-0.22 - 0.3) - 0.04),
    "": (-1.201030, -0.30103 - 0.9),
    "fox dog": (-3.101030, (-0.30103 - 0.7) + (-0.2 - 1.0) - 0.9),
    "red red": (-2.910000, -0.5 + (-0.11 - 0.4 - 0.6) + (-0.4 - 0.9)),
    "狐が走る": (-2.201030, (-0.30103 - 1.0) - 0.9),
}


@pytest.fixture
def read(tmp_path):
    def of(text: str | bytes, name: str = "a.arpa") -> ngram.NGram:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return arpa.read(path)

    return of


def test_kenlms_scores_and_those_by_hand(read):
    model = read(GOLDEN)
    found = model.score(KENLM)
    for i, (kenlm, by_hand) in enumerate(KENLM.values()):
        assert (
            found.log10_p[i] == pytest.approx(kenlm, abs=1e-6) == pytest.approx(by_hand, abs=1e-6)
        )
    assert found.tokens.tolist() == [3, 0, 2, 2, 1]
    assert found.unknown.tolist() == [0, 0, 1, 0, 1]
    assert found.log10_end.round(3).tolist() == [-0.04, -1.201, -0.9, -1.3, -0.9]
    assert found.log10_unknown.round(3).tolist() == [0, 0, -1.2, 0, -1.301]


WORDS = "the a red fox dog runs sees and , . fox's naïve 狐".split()


def sentences(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        " ".join(rng.choices(WORDS, range(13, 0, -1), k=rng.randrange(9))) for _ in range(count)
    ]


@pytest.fixture(scope="module", params=[1, 2, 4])
def fitted(request, tmp_path_factory):
    """(an n-gram model, the dictionaries that it was made of)."""
    path = tmp_path_factory.mktemp("arpa") / "m.arpa"
    grams = arpa_files.write(path, sentences(200, 0), request.param)
    return arpa.read(path), grams


def test_scores_are_those_of_the_recursion(fitted):
    model, grams = fitted
    texts = [*sentences(60, 1), "", "zebra", "the zebra runs , 走る fox", "<s> fox </s> <unk>"]
    found = model.score(texts)
    expected = [arpa_files.score(grams, text) for text in texts[:-1]]
    np.testing.assert_allclose(found.log10_p[:-1], expected, atol=1e-5)
    # A mark that stands in a text is a word that the model doesn't know.
    assert found.log10_p[-1] == pytest.approx(model.score(["? fox ? ?"]).log10_p[0])
    assert found.unknown[-3:].tolist() == [1, 2, 3]


def test_perplexity_is_that_of_the_scores(fitted):
    model, _ = fitted
    texts = [*sentences(40, 2), "", "走る zebra"]
    found = model.score(texts)
    alone = [model.score([text]).log10_p[0] for text in texts]
    tokens = sum(len(text.split()) + 1 for text in texts)
    assert found.perplexity() == pytest.approx(10 ** (-sum(alone) / tokens), rel=1e-5)
    known = sum(alone) - found.log10_unknown.sum()
    assert found.perplexity(unknown=False) == pytest.approx(10 ** (-known / (tokens - 2)), rel=1e-5)


def histories(model: ngram.NGram, count: int) -> list[list[int]]:
    """Any words, with and without a beginning, and what stands in the text of the model."""
    rng = random.Random(3)
    ids = [i for i in range(len(model.words)) if i not in (ngram.BEGIN, ngram.END)]
    found = []
    for text in sentences(count // 2, 0):
        found.append([*rng.choice(([ngram.BEGIN], [])), *rng.choices(ids, k=rng.randrange(1, 6))])
        words = [ngram.BEGIN, *model.encode(text)]
        found.append(words[: rng.randrange(1, len(words) + 1)])
    return found


def after(model: ngram.NGram, history: list[int]) -> tuple[np.ndarray, int, int]:
    """p of each word after a history, and the context that decides it."""
    words = np.arange(len(model.words))
    rows = np.array([[*history, word] for word in words])
    found = ngram.look_up(model.orders, np.insert(rows, 0, ngram.END, axis=1).reshape(-1))
    last = np.arange(1, words.size + 1) * (len(history) + 2) - 1
    p = 10.0 ** found.log10_p[last]
    p[ngram.BEGIN] = 0
    return p, int(found.length[last[0]]), int(found.context[last[0]])


def test_probabilities_sum_to_one_after_a_thousand_histories(fitted):
    model, _ = fitted
    sums = [after(model, history)[0].sum() for history in histories(model, 1000)]
    np.testing.assert_allclose(sums, 1, atol=1e-5)
    assert ngram_sums.worst_sum(model) == pytest.approx(1, abs=1e-5)


def pruned(grams: list[dict]) -> list[dict]:
    """Without every third n-gram: some longer ones then end with, or are, what isn't listed."""
    return [
        {g: x for i, (g, x) in enumerate(table.items()) if n == 0 or i % 3}
        for n, table in enumerate(grams)
    ]


def test_sums_of_a_set_are_those_word_by_word(fitted, read):
    whole, grams = fitted
    rng = np.random.default_rng(0)
    for model in (whole, read(arpa_files.text_of(pruned(grams)))):
        chosen = rng.random(len(model.words)) < 0.4
        sums = ngram_sums.sum_over(model, chosen)
        for history in histories(model, 60):
            p, length, context = after(model, history)
            assert sums[length][context] == pytest.approx(p[chosen].sum(), abs=1e-9)


def test_contexts_that_no_line_lists_have_a_backoff_of_zero(fitted, read):
    _, grams = fitted
    cut = pruned(grams)
    model = read(arpa_files.text_of(cut))
    texts = sentences(60, 4)
    expected = [arpa_files.score(cut, text) for text in texts]
    np.testing.assert_allclose(model.score(texts).log10_p, expected, atol=1e-5)
    lost = {g[:k] for t in cut for g in t for k in range(1, len(g))}
    lost = {c for c in lost if c not in cut[len(c) - 1]}
    assert model.notes == (
        (f"{len(lost)} contexts that no line lists: taken with backoff 0",) if lost else ()
    )
    assert bool(lost) == (len(cut) == 4)


def test_nothing_before_a_sentence_is_its_context(read):
    """Even where a file lists what bridges two."""
    model = read(
        GOLDEN.replace("2=4", "2=5")
        .replace("3=2", "3=3")
        .replace("-0.1\truns </s>", "-0.1\truns </s>\n-0.01\t</s> <s>\t-0.5")
        .replace("-0.04\tfox", "-0.02\t</s> <s> red\n-0.04\tfox")
    )
    found = model.score(["red", "red fox", "red"]).log10_p
    np.testing.assert_allclose(
        found, [model.score([x]).log10_p[0] for x in ("red", "red fox", "red")]
    )


def test_a_line_of_a_million_words(read):
    model = read(GOLDEN)
    found = model.score(["red fox runs dog " * 250_000])
    assert found.tokens.tolist() == [1_000_000] and found.unknown.tolist() == [250_000]
    # red behind an unknown word, fox, runs, and an unknown word behind "fox runs".
    each = -0.6 - 0.2 + (-0.22 - 0.3) + (-0.33 + 0.1 - 1.0)
    assert found.log10_p[0] / 1_000_000 == pytest.approx(each / 4, abs=1e-5)


def test_a_saved_model_is_the_same(fitted, tmp_path):
    model, _ = fitted
    ngram.save(model, tmp_path / "m")
    again = ngram.load(tmp_path / "m")
    assert (again.words, again.notes) == (model.words, model.notes)
    texts = sentences(20, 5)
    for a, b in zip(again.score(texts), model.score(texts), strict=True):
        np.testing.assert_array_equal(a, b)


SMALL = GOLDEN.split("\n", 2)[2]


@pytest.mark.parametrize("damage", [b"f\xffx", b"f\nx"])
def test_a_saved_model_with_damaged_words_is_refused(read, tmp_path, damage):
    ngram.save(read(GOLDEN), tmp_path / "m")
    (path,) = (tmp_path / "m").glob("*.npz")
    path.write_bytes(path.read_bytes().replace(b"fox", damage, 1))
    with pytest.raises(ValueError, match="m: its words are damaged: save the model anew"):
        ngram.load(tmp_path / "m")


@pytest.mark.parametrize(
    "text",
    [
        gzip.compress(GOLDEN.encode(), mtime=0),
        GOLDEN.replace("\n", "\r\n"),
        GOLDEN.replace("\t", "  "),
        "\ufeff" + SMALL,
        SMALL.replace("=", " = ").replace("-1.0\t", "-1.0\t").replace("\n\n", "\n"),
        SMALL.replace("<unk>", "<UNK>"),
    ],
)
def test_the_same_model_in_other_clothes(read, text):
    found = read(text)
    assert found.notes == ()
    np.testing.assert_array_equal(found.score(KENLM).log10_p, read(GOLDEN).score(KENLM).log10_p)


def test_lengths_without_any_n_gram(read):
    head = GOLDEN.split("\n\\3-grams:")[0]
    text = head.replace("3=2", "3=0") + "\n\\3-grams:\n\n\\end\\"
    model = read(text)
    assert model.score(["red fox runs"]).log10_p[0] == pytest.approx(
        -0.5 + (-0.11 - 0.2) + (-0.22 - 0.3) + (-0.33 - 0.1)
    )
    assert [x.size for x in ngram_sums.sum_over(model, np.ones(6, bool))] == [1, 6, 4]


def test_a_file_without_the_unknown_word_or_with_impossible_ones(read):
    model = read(GOLDEN.replace("1=6", "1=5").replace("-1.0\t<unk>\n", ""))
    assert model.notes == ("no <unk>: taken with log10 p = -100",)
    assert model.score(["dog"]).log10_p[0] == pytest.approx(-0.30103 - 100 - 0.9, abs=1e-4)
    for never in ("-inf", "-1e99"):
        model = read(GOLDEN.replace("-0.8\truns", f"{never}\truns"))
        found = model.score(["runs", "red"]).log10_p
        assert found[0] == -math.inf and math.isfinite(found[1])


def test_what_is_impossible_leaves_the_rest_as_it_is(read):
    model, texts = read(GOLDEN), ["red fox zebra", "", "zebra fox"]
    found = model.score(texts)
    never = read(GOLDEN.replace("-1.0\t<unk>", "-inf\t<unk>")).score(texts)
    np.testing.assert_array_equal(never.log10_p == -math.inf, [True, False, True])
    assert never.perplexity() == math.inf
    assert never.perplexity(unknown=False) == found.perplexity(unknown=False)
    endless = read(GOLDEN.replace("-0.9\t</s>", "-inf\t</s>")).score(texts)
    assert endless.log10_end[0] == -math.inf
    np.testing.assert_array_equal(endless.log10_without_end, found.log10_without_end)


def test_json_of_what_is_impossible_is_json(tmp_path):
    arpa_file, lines, target = (tmp_path / name for name in ("a.arpa", "lines.txt", "scores.jsonl"))
    arpa_file.write_text(GOLDEN.replace("-0.9\t</s>", "-inf\t</s>"))
    lines.write_text("fox\n")
    options = ["--format", "jsonl", "--output", str(target)]
    assert score.main([str(arpa_file), str(lines), *options]) == 0
    found = json.loads(target.read_text(), parse_constant=pytest.fail)
    assert (found["log10"], found["log10_without_end"]) == ("-Infinity", pytest.approx(-1.00103))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2=4", "2=5", r"line 5: ngram 2=5: but 4 follow; complete the file, or correct"),
        ("2=4", "2=3", r"line 5: ngram 2=3: but 4 follow"),
        ("3=2", "4=2", r"line 6: ngram 4=2: must be ngram 3=COUNT"),
        ("ngram 3=2\n", "", r"line 16: backoff = -0.11: the longest n-grams"),
        ("\\2-grams:", "\\3-grams:", r"line 16: \\3-grams:: must be \\2-grams:"),
        ("\\end\\", "", r"line 26: end of the file: must be \\end\\; complete"),
        ("-0.7\tfox", "0.7\tfox", r"line 12: log10 p = 0.7: must be a number, and at most 0"),
        ("-0.7\tfox", "nan\tfox", r"line 12: log10 p = nan: must be a number"),
        ("-0.7\tfox", "-1_0\tfox", r"line 12: log10 p = -1_0: must be a number"),
        ("-0.7\tfox", "fox\t-0.7", r"line 12: log10 p = fox: must be a number"),
        ("-0.22", "x", r"line 18: backoff = x: must be a number, at most 60"),
        ("-0.22", "inf", r"line 18: backoff = inf: must be a number, at most 60"),
        ("-0.22", "61", r"line 18: backoff = 61: must be a number, at most 60"),  # its power, too
        pytest.param("2=4", f"2={'9' * 5000}", r"a.arpa: line 5: ngram 2=9+: must be", id="long"),
        pytest.param("\\2-", f"\\{'9' * 5000}-", r"a.arpa: line 16: \\9+: must be", id="long n"),
        ("runs </s>\n\n\\end", "runs </s>\t-1\n\n\\end", r"line 24: backoff = -1: the longest"),
        ("-0.5\t<s> red\t-0.11", "-0.5\t<s>\t-0.11", r"line 17: backoff = |line 17: -0.11 is no"),
        ("-0.5\t<s> red\t-0.11", "-0.5\t<s>", r"line 17: 2 fields: must be log10 p, 2 words and"),
        ("-0.5\t<s> red", "-0.5\t<s> dog", r"line 17: dog is no 1-gram: must be one; add it"),
        ("-0.8\truns", "-0.8\tfox", r"line 14: fox is listed twice: must be once; drop one"),
        ("-0.3\tfox runs", "-0.3\tred fox", r"line 19: this n-gram stands in line 18, too"),
        ("-99\t<s>", "-99\tbegin", r"a.arpa: line 17: <s> is no 1-gram"),
        ("\\data\\", "data", r"a.arpa: has no \\data\\: must be an ARPA file"),
        (
            "made by hand",
            "mmap lm http://kheafield.com/code format",
            r"line 1: a KenLM binary: must",
        ),
    ],
)
def test_a_wrong_file_is_refused_where_it_is_wrong(read, old, new, message):
    assert old in GOLDEN
    with pytest.raises(ValueError, match=message):
        read(GOLDEN.replace(old, new, 1))


def test_damaged_bytes_are_refused(read):
    packed = gzip.compress(GOLDEN.encode(), mtime=0)
    with pytest.raises(ValueError, match=r"a.arpa: line \d+: the gzip stream is damaged"):
        read(packed[:-12])
    with pytest.raises(ValueError, match=r"a.arpa: line 12: na.ve is no UTF-8; convert"):
        read(GOLDEN.replace("-0.7\tfox", "-0.7\tnaïve").encode("latin-1"))
    with pytest.raises(ValueError, match=r"has no \\data\\"):
        read("")
    with pytest.raises(ValueError, match=r"line 5: \\1-grams:: must be \\end\\; complete"):
        read("\\data\\\nngram 1=1\n\\1-grams:\n-1 <s>\n\\1-grams:\n")
    with pytest.raises(ValueError, match=r"a.arpa: has no 1-gram </s>: must have one"):
        read("\\data\\\nngram 1=1\n\\1-grams:\n-1 <s>\n\\end\\")
    with pytest.raises(ValueError, match="line 2: the file ends within"):
        read("\\data\\\nngram 1=3")


def test_a_file_changed_anywhere_is_read_or_refused(read):
    """By the one error that names the file; never by another, nor read to what is no number."""
    rng = random.Random(0)
    lines, signs = GOLDEN.split("\n"), "-.019 \t\n\\<>seinf=_+\0\xff"
    refused = 0
    for _ in range(300):
        rows, text = list(lines), GOLDEN
        if rng.random() < 0.5:
            row = rows.pop(rng.randrange(len(rows)))
            text = "\n".join([*rows[: (at := rng.randrange(len(rows)))], row, *rows[at:]])
        else:
            at = rng.randrange(len(text))
            text = text[:at] + rng.choice(signs) + text[at + rng.randrange(2) :]
        try:
            found = read(text).score(KENLM)
        except ValueError as error:
            refused += 1
            assert "a.arpa: " in str(error)
        else:
            assert not np.isnan(found.log10_p).any()
    assert 100 < refused < 300
