"""Texts of the language-model scripts: which to train on, which to watch, which to test on."""

from __future__ import annotations

import dataclasses
import json
import zlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from sparse_jax.lm import bpe, spelling, text

_SOURCES = ("train", "test", "pairs")
VALIDATION_SHARE, MOST_VALIDATION, STRETCHES = 0.01, 40_000, 20


@dataclasses.dataclass(frozen=True)
class Record:
    """What a model was trained and tested on, without the text itself; kept with the model."""

    train: tuple[text.Source, ...]
    test: tuple[text.Source, ...] = ()  # empty: the test text was held out of `train`, or none
    held_out: bool = False  # whether it was
    pairs: tuple[text.Source, ...] = ()  # preference files whose answers it learned from, too
    train_sha256: str = ""  # of the documents trained on, validation included
    test_sha256: str = ""
    vocabulary_sha256: str = ""

    def as_json(self) -> dict[str, Any]:
        """For `Record.from_json`."""
        return dataclasses.asdict(self) | {
            name: [list(source) for source in getattr(self, name)] for name in _SOURCES
        }

    @staticmethod
    def from_json(value: dict[str, Any]) -> Record:
        """The record that `as_json` was asked of.

        Raises:
          ValueError: if it is of another version.
        """
        fields = {field.name for field in dataclasses.fields(Record)}
        if value.keys() != fields:
            differ = ", ".join(sorted(value.keys() ^ fields))
            raise ValueError(
                f"what it was trained on is told as another version does ({differ}): train it anew"
            )
        sources = {n: tuple(text.Source(*s) for s in value[n]) for n in _SOURCES}
        return Record(**(value | sources))

    def learned(self) -> tuple[text.Source, ...]:
        """All that it has seen."""
        return self.train + self.pairs

    def differences(self, now: Record) -> list[str]:
        """What another record has that this one hasn't, for people; empty where they agree.

        Example:
          >>> was = Record((text.Source("a.txt", "1f", 7),), train_sha256="x")
          >>> now = Record((text.Source("a.txt", "2e", 9),), train_sha256="y")
          >>> was.differences(now)
          ['the training text: a.txt has changed, from 7 to 9 bytes']
        """
        found = []
        for what, kind in (("train", "training"), ("test", "test")):
            old, new = getattr(self, what), getattr(now, what)
            if [s.sha256 for s in old] != [s.sha256 for s in new]:
                found.append(f"the {kind} text: {_compare(old, new)}")
        for what, about in (
            ("train_sha256", "which documents are trained on"),
            ("test_sha256", "which documents are tested on"),
            ("vocabulary_sha256", "the vocabulary"),
        ):
            if not found and getattr(self, what) != getattr(now, what):
                found.append(about)
        return found


NO_RECORD = Record(())


def _compare(old: tuple[text.Source, ...], new: tuple[text.Source, ...]) -> str:
    was, now = {s.name: s for s in old}, {s.name: s for s in new}
    parts = [
        f"{name} has changed, from {was[name].num_bytes:,} to {now[name].num_bytes:,} bytes"
        for name in was
        if name in now and was[name].sha256 != now[name].sha256
    ]
    gone, more = ([n for n in a if n not in b] for a, b in ((was, now), (now, was)))
    if gone and more:
        parts.append(f"it was {_names(gone)}, now it is {_names(more)}")
    elif gone or more:
        parts.append(f"{_names(gone or more)} {'is missing' if gone else 'is new'}")
    return "; ".join(parts) or "the same files in another order"


def _names(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


@dataclasses.dataclass
class Data:
    """Tokens and how they were made."""

    vocabulary: Any
    train: text.Corpus
    validation: text.Corpus  # stretches taken out of the training text; may be empty
    test: text.Corpus
    spelling: np.ndarray  # of unknown words, of `spelling.fit_spelling`
    spelling_bits: float  # for the test text's unknown words
    record: Record
    notes: list[str] = dataclasses.field(default_factory=list)  # for people


def load(
    files: list[str],
    test_files: list[str],
    *,
    kind: str,
    min_count: int,
    bpe_size: int,
) -> Data:
    """Reads, makes the vocabulary from the training text alone, and splits.

    Without files: Python's own reference text. Without a test file: documents are held out by a
    hash of their text, or the end of each where there are fewer than 20.

    Raises:
      OSError, ValueError: if a file can't be read, or there is nothing to train or test on.
    """
    given = read_training(files)
    test = text.read_texts(test_files)
    if test_files:
        texts, held_out = given.documents, test.documents
        _need(texts, test_files, held_out)
    else:
        texts, held_out = hold_out(given.documents)
        if not texts or not held_out:
            raise ValueError(
                "the text is too short to hold out a twentieth of it for testing: give more, or "
                "a test text by --test"
            )
    data = split(texts, held_out, kind=kind, min_count=min_count, bpe_size=bpe_size)
    data.record = dataclasses.replace(
        data.record,
        train=tuple(given.sources),
        test=tuple(test.sources),
        held_out=not test_files,
    )
    data.notes = given.notes + test.notes + trained_on(data.record.train, test.sources)
    return data


def _need(texts: list[str], test_files: list[str], held_out: list[str]) -> None:
    if not texts:
        raise ValueError("no text to train on: give at least one document that isn't empty")
    if not held_out:
        raise ValueError(f"{', '.join(test_files)}: no text to test on; give one that isn't empty")


def read_training(files: list[str]) -> text.Texts:
    """The text to train on: of files, or Python's reference."""
    if files:
        return text.read_texts(files)
    topics = text.python_topics()
    return text.Texts(topics, [text.make_source("Python's reference text", topics)], [])


def trained_on(train: Iterable[text.Source], test: Iterable[text.Source]) -> list[str]:
    """A warning for each test text that is training text, too."""
    known = {source.sha256: source.name for source in train}
    return [
        f"{source.name} is a test text that the model was trained on ({known[source.sha256]}): "
        "its perplexity says nothing of other text"
        for source in test
        if source.sha256 in known
    ]


def load_test(record: Record) -> list[str]:
    """The test documents of a model's training, read anew.

    Raises:
      ValueError: if they aren't known, or no longer what they were: never are they text that the
        model was trained on.
    """
    cure = "give a text to score by --test FILE"
    if not record.test_sha256 or not (record.test or record.held_out):
        raise ValueError(f"the model has no test text: {cure}")
    names = record.test or record.train
    try:
        if names[0].name == "Python's reference text":
            now = read_training([])
        else:
            now = text.read_texts([source.name for source in names])
    except (OSError, ValueError) as error:
        raise ValueError(f"the test text of the training can't be read ({error}): {cure}") from None
    documents = hold_out(now.documents)[1] if record.held_out else now.documents
    if [s.sha256 for s in now.sources] != [s.sha256 for s in names] or (
        text.digest(documents) != record.test_sha256
    ):
        was = "held out of it" if record.held_out else "in it"
        raise ValueError(
            f"{_compare(names, tuple(now.sources))} since the model was trained, so the test text "
            f"that was {was} is no longer known: {cure}"
        )
    return documents


def split(
    texts: list[str],
    held_out: list[str],
    *,
    kind: str = "word",
    min_count: int = 5,
    bpe_size: int = 32_768,
) -> Data:
    """Tokens of texts to train on and of texts to test on; the vocabulary comes from the first."""
    vocabulary: Any = (
        text.WordVocabulary.fit(texts, min_count=min_count)
        if kind == "word"
        else bpe.BpeVocabulary.fit(texts, size=bpe_size)
    )
    table = spelling.fit_spelling(vocabulary, texts)
    train, validation = take_stretches(text.encode_corpus(vocabulary, texts))
    record = Record(
        (),
        train_sha256=text.digest(texts),
        test_sha256=text.digest(held_out),
        vocabulary_sha256=text.digest([json.dumps(vocabulary.state())]),
    )
    return Data(
        vocabulary,
        train,
        validation,
        text.encode_corpus(vocabulary, held_out),
        table,
        spelling.spelling_bits(vocabulary, held_out, table),
        record,
    )


def hold_out(texts: list[str]) -> tuple[list[str], list[str]]:
    """About a twentieth of the text for testing: whole documents, or the ends of a few.

    A document that is there twice is on one side. Sides may be empty where there is little text.
    """
    if len(texts) >= 20:
        ranked = sorted(texts, key=lambda text: zlib.crc32(text.encode("utf-8", "surrogatepass")))
        out = set(ranked[: -(-len(texts) // 20)])
        return [t for t in texts if t not in out], [t for t in texts if t in out]
    cuts = [t.rfind("\n", 0, len(t) * 19 // 20) for t in texts]
    cuts = [c if c > 0 else len(t) * 19 // 20 for t, c in zip(texts, cuts, strict=True)]
    parts = [(t[:c], t[c:]) for t, c in zip(texts, cuts, strict=True)]
    return [t for t, _ in parts if t.strip()], [t for _, t in parts if t.strip()]


def take_stretches(corpus: text.Corpus) -> tuple[text.Corpus, text.Corpus]:
    """(what remains, stretches from all over the text): cut ends become ends of documents.

    Of fewer than 4,000 tokens nothing is taken.
    """
    n = corpus.tokens.size
    length = int(min(VALIDATION_SHARE * n, MOST_VALIDATION)) // STRETCHES
    if length < 2:
        return corpus, text.Corpus(corpus.tokens[:0], 0, 0)
    begins = (np.arange(STRETCHES) + 1) * n // (STRETCHES + 1)
    pieces = np.split(corpus.tokens, np.stack([begins, begins + length], 1).ravel())

    def join(parts: list[np.ndarray]) -> text.Corpus:
        ended = [np.append(p[:-1], np.int32(text.DOCUMENT)) for p in parts]
        tokens = np.concatenate(ended).astype(np.int32)
        return text.Corpus(tokens, int(np.sum(tokens == text.DOCUMENT)), 0)

    return join(pieces[::2]), join(pieces[1::2])
