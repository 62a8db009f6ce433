"""Text to tokens: words, documents, vocabularies, batches."""

from __future__ import annotations

import gzip

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.lm import batching, bpe, spelling, text
from sparse_jax.lm.text import DOCUMENT, UNKNOWN, Corpus, WordVocabulary


def test_blank_lines_tell_paragraphs_from_indented_ones():
    words = list(text.split_words("One.\n\nTwo\n  three\n \n\n   Four"))
    assert words == ["One", ".", "\n\n", "Two", "three", "\n\n  ", "Four"]


def test_chunks_cut_no_token(monkeypatch):
    whole = "alpha beta-gamma  delta\n\n   epsilon zeta_eta. " * 5
    expected = list(text.split_words(whole))
    for size in range(1, 40):
        monkeypatch.setattr(text, "_CHUNK", size)
        assert list(text.split_words(whole)) == expected


def test_vocabulary_has_frequent_words_and_one_unknown():
    vocabulary = WordVocabulary.fit(["b b b a a a c c d"], min_count=2)
    assert vocabulary.words[4:] == ("a", "b", "c")
    assert vocabulary.encode("a d nothing c").tolist() == [4, UNKNOWN, UNKNOWN, 6]
    assert WordVocabulary.fit(["b b b a a c"], min_count=1, max_ids=6).words[4:] == ("b", "a")


def test_vocabulary_refuses_what_leaves_no_word():
    with pytest.raises(ValueError, match="min_count = 5"):
        WordVocabulary.fit(["too few words"])
    with pytest.raises(ValueError, match="min_count = 0"):
        WordVocabulary.fit(["a"], min_count=0)
    with pytest.raises(ValueError, match="begin with"):
        WordVocabulary(("a", "b"))


def test_documents_come_from_files_folders_and_form_feeds(tmp_path):
    (tmp_path / "b.txt").write_text("second\fthird")
    with gzip.open(tmp_path / "a.gz", "wt") as file:
        file.write("first")
    (tmp_path / "c.bin").write_text("no text")
    assert list(text.read_documents([tmp_path])) == ["first", "second", "third"]
    assert list(text.read_documents([tmp_path / "b.txt"])) == ["second", "third"]
    with pytest.raises(FileNotFoundError, match=r"no \.txt"):
        (tmp_path / "empty").mkdir()
        list(text.read_documents([tmp_path / "empty"]))


def test_corpus_ends_each_document():
    vocabulary = WordVocabulary.fit(["a b c"], min_count=1)
    corpus = text.encode_corpus(vocabulary, ["a b", "é c"])
    assert corpus.tokens.tolist() == [4, 5, DOCUMENT, UNKNOWN, 6, DOCUMENT]
    assert (corpus.num_documents, corpus.num_bytes) == (2, 3 + 4)
    assert corpus.since_start(1).tolist() == [0, 1, 1, 0, 1, 1]


def test_spelling_charges_only_unknown_words():
    vocabulary = WordVocabulary.fit(["a a b xy"], min_count=2)
    table = spelling.fit_spelling(vocabulary, ["a a b xy"])
    np.testing.assert_allclose(np.exp2(-table).sum(axis=1), 1.0)
    assert spelling.spelling_bits(vocabulary, ["a a"], table) == 0
    # Byte 'b' began one of two words: (1 + 1) / (257 + 2); then the word ended.
    expected = np.log2(259 / 2) + np.log2(258 / 2)
    assert spelling.spelling_bits(vocabulary, ["b"], table) == pytest.approx(expected)


def test_bpe_gives_the_text_back_and_knows_no_special_token_in_it():
    pytest.importorskip("tokenizers")
    sample = "Hello, world!\n\n  naïve 漢字 <|end|> \t end"
    vocabulary = bpe.BpeVocabulary.fit([sample] * 3, size=300)
    ids = vocabulary.encode(sample)
    assert ids.dtype == np.int32 and DOCUMENT not in ids and ids.max() < vocabulary.size
    assert vocabulary.decode(ids) == sample
    again = bpe.load_vocabulary(vocabulary.state())
    np.testing.assert_array_equal(again.encode(sample), ids)


positions = jax.jit(batching.positions)


@settings(deadline=None, max_examples=30)  # each shape compiles
@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=70),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([1, 4, 9]),
    st.sampled_from([1, 2, 5]),
    st.sampled_from([None, 3]),
)
def test_batches_hold_every_token_once_with_its_own_history(tokens, runs, length, back, seed):
    stream = np.array([*tokens, DOCUMENT], np.int32)
    corpus = Corpus(stream, 1, 0)
    seen = []
    made = list(batching.batches(corpus, runs, length, back, seed=seed))
    assert len(made) == batching.num_batches(corpus, runs, length)
    for batch in made:
        at = positions(batch.tokens, batch.since)
        for history, known, target in zip(*map(np.asarray, at[1:]), strict=True):
            if target >= 0:
                seen.append((*history.tolist(), known, target))
    expected = []
    for i, token in enumerate(stream):
        start = max([0, *(np.flatnonzero(stream[:i] == DOCUMENT) + 1)])
        own = stream[max(start, i - back) : i].tolist()
        expected.append((*[DOCUMENT] * (back - len(own)), *own, len(own), token))
    assert sorted(seen) == sorted(expected)


def test_resumed_batches_go_on_in_the_same_order():
    corpus = Corpus(np.arange(2, 90, dtype=np.int32), 1, 0)
    whole = list(batching.batches(corpus, 2, 5, 3, seed=1, epoch=2))
    rest = list(batching.batches(corpus, 2, 5, 3, seed=1, epoch=2, start=4))
    for a, b in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(a.tokens, b.tokens)
    other = next(batching.batches(corpus, 2, 5, 3, seed=1, epoch=3))
    assert not np.array_equal(other.tokens, whole[0].tokens)
