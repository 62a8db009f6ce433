"""Texts of the language-model scripts: which to train on, which to watch, which to test on."""

from __future__ import annotations

import dataclasses
import zlib
from typing import Any

import numpy as np

from sparse_jax.lm import bpe, spelling, text

VALIDATION_SHARE, MOST_VALIDATION, STRETCHES = 0.01, 40_000, 20


@dataclasses.dataclass
class Data:
    """Tokens and how they were made."""

    vocabulary: Any
    train: text.Corpus
    validation: text.Corpus  # stretches taken out of the training text
    test: text.Corpus
    spelling_bits: float  # for the test text's unknown words


def load(
    files: list[str],
    test_files: list[str],
    *,
    kind: str,
    min_count: int,
    bpe_size: int,
    vocabulary: Any = None,
) -> Data:
    """Reads, makes the vocabulary from the training text alone, and splits.

    Without files: Python's own reference text. Without a test file: documents are held out by a
    hash of their text, or the end of each where there are fewer than 20.
    """
    texts = list(text.read_documents(files)) if files else text.python_topics()
    if test_files:
        held_out = list(text.read_documents(test_files))
    else:
        texts, held_out = hold_out(texts)
    return split(
        texts, held_out, kind=kind, min_count=min_count, bpe_size=bpe_size, vocabulary=vocabulary
    )


def split(
    texts: list[str],
    held_out: list[str],
    *,
    kind: str = "word",
    min_count: int = 5,
    bpe_size: int = 32_768,
    vocabulary: Any = None,
) -> Data:
    """Tokens of texts to train on and of texts to test on; the vocabulary comes from the first."""
    if vocabulary is None:
        vocabulary = (
            text.WordVocabulary.fit(texts, min_count=min_count)
            if kind == "word"
            else bpe.BpeVocabulary.fit(texts, size=bpe_size)
        )
    table = spelling.fit_spelling(vocabulary, texts)
    train, validation = take_stretches(text.encode_corpus(vocabulary, texts))
    return Data(
        vocabulary,
        train,
        validation,
        text.encode_corpus(vocabulary, held_out),
        spelling.spelling_bits(vocabulary, held_out, table),
    )


def hold_out(texts: list[str]) -> tuple[list[str], list[str]]:
    """About a twentieth of the text for testing: whole documents, or the ends of a few."""
    if len(texts) >= 20:
        ranked = sorted(range(len(texts)), key=lambda i: zlib.crc32(texts[i].encode()))
        out = set(ranked[: -(-len(texts) // 20)])
        return (
            [t for i, t in enumerate(texts) if i not in out],
            [t for i, t in enumerate(texts) if i in out],
        )
    cuts = [t.rfind("\n", 0, len(t) * 19 // 20) for t in texts]
    cuts = [c if c > 0 else len(t) * 19 // 20 for t, c in zip(texts, cuts, strict=True)]
    return (
        [t[:c] for t, c in zip(texts, cuts, strict=True)],
        [t[c:] for t, c in zip(texts, cuts, strict=True)],
    )


def take_stretches(corpus: text.Corpus) -> tuple[text.Corpus, text.Corpus]:
    """(what remains, stretches from all over the text): cut ends become ends of documents."""
    n = corpus.tokens.size
    length = int(min(VALIDATION_SHARE * n, MOST_VALIDATION)) // STRETCHES
    if length < 2:
        return corpus, corpus
    begins = (np.arange(STRETCHES) + 1) * n // (STRETCHES + 1)
    pieces = np.split(corpus.tokens, np.stack([begins, begins + length], 1).ravel())

    def join(parts: list[np.ndarray]) -> text.Corpus:
        ended = [np.append(p[:-1], np.int32(text.DOCUMENT)) for p in parts]
        tokens = np.concatenate(ended).astype(np.int32)
        return text.Corpus(tokens, int(np.sum(tokens == text.DOCUMENT)), 0)

    return join(pieces[::2]), join(pieces[1::2])
