"""A back-off n-gram model, looked up for whole texts at once.

    log10 p(w | h) = log10 p(h, w)               where (h, w) is listed, and else
                     backoff(h) + log10 p(w | h')

with h' = h without its first word, and backoff(h) = 0 where h isn't listed. `arpa.read` makes one
from a file; `save` and `load` keep it, so that it opens without being parsed again.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from sparse_jax.lm.sentences import SentenceScores, as_texts, sum_up
from sparse_jax.runtime import saved

__all__ = ["KIND", "NGram", "Order", "load", "look_up", "save", "score"]

KIND = "lm arpa"  # the command that writes them
UNKNOWN, BEGIN, END = 0, 1, 2
"""Ids of <unk>, <s> and </s> in every model."""
MARKS = ("<unk>", "<s>", "</s>")


class Order(NamedTuple):
    """The g n-grams of one length n. An n-gram's id is its place."""

    keys: np.ndarray  # int64 [g], sorted: id of its first n - 1 words, times V, plus its last word
    log10_p: np.ndarray  # float32 [g]
    backoff: np.ndarray  # float32 [g], log10; 0 for the longest


@dataclasses.dataclass(frozen=True, eq=False)
class NGram:
    """A model of V words and their n-grams; the first n - 1 words of each are listed, too."""

    words: tuple[str, ...]  # [V]; begins with MARKS
    orders: tuple[Order, ...]  # of 1, 2, … words
    notes: tuple[str, ...] = ()  # what was odd about its file

    def __post_init__(self) -> None:
        ids = {word.encode("utf-8"): i for i, word in enumerate(self.words)}
        # A word of a text that is spelled like a mark of its ends is no such mark.
        for mark in (BEGIN, END):
            ids.pop(MARKS[mark].encode(), None)
        object.__setattr__(self, "_ids", ids)

    def encode(self, text: str) -> list[int]:
        """Ids of the words between white space (ASCII's, as KenLM parts them); 0 if unknown."""
        find = self._ids.get  # type: ignore[attr-defined]
        return [find(word, UNKNOWN) for word in text.encode("utf-8", "surrogatepass").split()]

    def score(self, sentences: Iterable[str]) -> SentenceScores:
        """Each of some sentences by itself: see `score`."""
        return score(self, sentences)


def find(order: Order, keys: np.ndarray) -> np.ndarray:
    """Ids of keys, int64 [n]; -1 where there is no such n-gram."""
    if not order.keys.size:
        return np.full(keys.shape, -1, np.int64)
    at = np.minimum(np.searchsorted(order.keys, keys), order.keys.size - 1)
    return np.where(order.keys[at] == keys, at, -1)


class LookedUp(NamedTuple):
    """Of n words, each after those before it."""

    log10_p: np.ndarray  # float64 [n]
    length: np.ndarray  # int64 [n], words of the longest context that is listed
    context: np.ndarray  # int64 [n], its id among those of this length; 0 for the empty one


def look_up(orders: Sequence[Order], tokens: np.ndarray) -> LookedUp:
    """log10 p of each word of a text, and the context that decides it.

    Args:
      orders: of a model of V words, the shortest first.
      tokens: int [n], word ids; BEGIN starts a sentence, and nothing before it is context.

    Returns:
      `LookedUp`; the figures of BEGIN itself mean nothing.

    Example:
      >>> floats = lambda *x: np.array(x, np.float32)
      >>> one = Order(np.arange(4), floats(-9, -9, -1, -0.5), floats(0, -0.25, 0, -0.125))
      >>> two = Order(np.array([1 * 4 + 3]), floats(-0.1), floats(0))
      >>> look_up([one, two], np.array([1, 3, 3, 2])).log10_p.round(3).tolist()
      [-9.0, -0.1, -0.625, -1.125]
    """
    tokens = np.asarray(tokens, np.int64)
    words = orders[0].keys.size
    log10_p = orders[0].log10_p[tokens].astype(np.float64)
    length, context = np.zeros(tokens.size, np.int64), np.zeros(tokens.size, np.int64)
    ends = tokens  # the n-gram of this length that ends here
    for n, order in enumerate(orders[1:], 1):
        before = np.full(tokens.size, -1, np.int64)
        before[1:] = ends[:-1]
        before[tokens == BEGIN] = -1
        at = np.flatnonzero(before >= 0)
        ids = before[at]
        length[at], context[at] = n, ids
        found = find(order, ids * words + tokens[at])
        listed = found >= 0
        log10_p[at] += orders[n - 1].backoff[ids]
        log10_p[at[listed]] = order.log10_p[found[listed]]
        ends = np.full(tokens.size, -1, np.int64)
        ends[at] = found
    return LookedUp(log10_p, length, context)


def score(model: NGram, sentences: Iterable[str]) -> SentenceScores:
    """The score of each sentence by itself, as KenLM's `score` with its defaults.

    A sentence begins with <s>, which costs nothing, and ends with </s>, which is predicted. Words
    are what stands between white space; one that the model doesn't know is <unk>.

    Args:
      model: of `arpa.read` or `load`.
      sentences: n texts; an empty one has its end alone.

    Returns:
      `SentenceScores`.

    Raises:
      TypeError: if sentences is one string, or holds what is none.

    Example:
      >>> floats = lambda *x: np.array(x, np.float32)
      >>> one = Order(np.arange(4), floats(-2, -99, -1, -0.5), floats(0, -0.25, 0, 0))
      >>> model = NGram(("<unk>", "<s>", "</s>", "fox"), (one,))
      >>> score(model, ["fox fox", "", "dog"]).log10_p.tolist()
      [-2.0, -1.0, -3.0]
    """
    texts = as_texts(sentences)
    rows = [[BEGIN, *model.encode(text), END] for text in texts]
    tokens = np.fromiter((i for row in rows for i in row), np.int64)
    starts = tokens == BEGIN
    log10_p = look_up(model.orders, tokens).log10_p[~starts]
    tokens = tokens[~starts]
    return sum_up(log10_p, ends=tokens == END, unknown=tokens == UNKNOWN)


def save(model: NGram, path: str | os.PathLike[str]) -> None:
    """Writes a model into a directory, in the place of the one that may be there.

    Raises:
      OSError: if it can't be written; the model that was there is then as it was.

    Example:
      >>> import tempfile
      >>> zeros = np.zeros(3, np.float32)
      >>> model = NGram(MARKS, (Order(np.arange(3), zeros - 1, zeros),))
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(model, folder)
      ...     load(folder).words == model.words
      True
    """
    arrays = {"words": np.frombuffer("\n".join(model.words).encode("utf-8"), np.uint8)}
    for n, order in enumerate(model.orders, 1):
        arrays |= {f"{name}{n}": array for name, array in order._asdict().items()}
    config = {"order": len(model.orders), "notes": list(model.notes)}
    saved.save(path, kind=KIND, config=config, arrays=arrays)


def load(path: str | os.PathLike[str]) -> NGram:
    """Opens what `save` wrote; nothing is unpickled, and the n-grams stay on the disk until used.

    Raises:
      ValueError: if there is no model, it is of another kind or version, or it is damaged.
    """
    config, arrays = saved.load(path, kind=KIND, mapped=True)
    orders = tuple(
        Order(*(arrays[f"{name}{n}"] for name in Order._fields))
        for n in range(1, config["order"] + 1)
    )
    try:
        words = arrays["words"].tobytes().decode("utf-8").split("\n")
    except UnicodeDecodeError:
        words = []
    if len(words) != orders[0].keys.size:
        raise ValueError(f"{path}: its words are damaged: save the model anew")
    return NGram(tuple(words), orders, tuple(config["notes"]))
