"""Finished models on disk, in the format of `runtime.saved`: weights and vocabulary together."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sparse_jax.lm import bpe, keyvalue, model, sentences, training
from sparse_jax.lm import memory as mem
from sparse_jax.lm.corpus import NO_RECORD, Record
from sparse_jax.retrieval import index
from sparse_jax.runtime import saved, trees

__all__ = ["KIND", "LanguageModel", "from_state", "load", "save"]

KIND = "lm"


@dataclasses.dataclass(frozen=True)
class LanguageModel:
    """A trained model and its vocabulary: all that scoring, writing and tuning need."""

    params: model.Params
    memory: mem.Memory | None
    unigram: jax.Array  # float32 [V], share of each token in the training text
    popular: jax.Array  # int32 [P], the most frequent tokens
    lsh: index.LshIndex | None  # of the keys of the key-value memory
    config: model.Config
    vocabulary: Any  # of `text` or `bpe`
    record: Record = NO_RECORD  # of what it was trained and tested on
    spelling: np.ndarray | None = None  # of unknown words, for bits per byte

    def arrays(self) -> dict[str, Any]:
        """The arrays as one tree."""
        return {name: getattr(self, name) for name in _ARRAYS}

    def score(self, texts: Iterable[str]) -> sentences.SentenceScores:
        """Each of some sentences by itself: see `sentences.score`."""
        return sentences.score(self, texts)


_ARRAYS = ("params", "memory", "unigram", "popular", "lsh")


def from_state(
    state: training.LMState,
    *,
    vocabulary: Any,
    record: Record | None = None,
    spelling: np.ndarray | None = None,
    config: model.Config,
) -> LanguageModel:
    """The model of a training state, without what only training needs.

    Args:
      state: its arrays are shared, not copied.
      vocabulary: of `text` or `bpe`.
      record: of what it was trained and tested on.
      spelling: of `spelling.fit_spelling`; without it bits per byte are not known.
      config: the model's.
    """
    arrays = {name: getattr(state, name) for name in _ARRAYS}
    return LanguageModel(
        **arrays,
        config=config,
        vocabulary=vocabulary,
        record=record or NO_RECORD,
        spelling=spelling,
    )


def save(model: LanguageModel, path: str | os.PathLike[str]) -> None:
    """Writes a model into a directory; one that is there is replaced as a whole.

    Args:
      model: what to write.
      path: of the directory, made if missing.

    Raises:
      OSError: if it can't be written; the model that was there is then as it was.

    Example:
      >>> import tempfile
      >>> from sparse_jax import lm
      >>> words = lm.text.WordVocabulary.fit(["a b a b"], min_count=2)
      >>> config = model.Config(vocabulary=words.size, rows=0, hidden=8, inner=8)
      >>> params, memory = model.init(jax.random.key(0), config=config)
      >>> unigram, popular = jnp.full(words.size, 1 / words.size), jnp.arange(4, dtype=jnp.int32)
      >>> trained = LanguageModel(params, memory, unigram, popular, None, config, words)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(trained, folder)
      ...     load(folder).vocabulary.words == words.words
      True
    """
    config = {
        "model": dataclasses.asdict(model.config),
        "vocabulary": model.vocabulary.state(),
        "record": model.record.as_json(),
        "popular": int(model.popular.size),
    }
    arrays = trees.to_arrays(model.arrays())
    if model.spelling is not None:
        arrays["spelling"] = model.spelling
    saved.save(path, kind=KIND, config=config, arrays=arrays)


def load(path: str | os.PathLike[str], *, mapped: bool = False) -> LanguageModel:
    """Reads what `save` wrote; nothing is unpickled.

    Args:
      path: of the directory.
      mapped: leaves the arrays on the disk until they are used, which opens models of any size at
        once: for scoring and writing, not for training, which would copy them. Damage within them
        is not noticed then.

    Returns:
      A `LanguageModel`, which scores and writes as the saved one did, bit for bit.

    Raises:
      ValueError: if there is no model, it is of another kind or version, or it is damaged.

    Example:
      >>> load("no such folder")
      Traceback (most recent call last):
      ValueError: ...
    """
    about, arrays = saved.load(path, kind=KIND, mapped=mapped)
    fields = {field.name for field in dataclasses.fields(model.Config)}
    given = model.FORMER | about["model"]
    if given.keys() != fields or "record" not in about:
        differ = ", ".join(sorted(given.keys() ^ fields)) or "what it was trained on"
        raise ValueError(f"{path} was saved by another version ({differ}): train the model anew")
    config = model.Config(**given | {"orders": tuple(given["orders"])})
    try:
        record = Record.from_json(about["record"])
        tree = trees.from_arrays(arrays, _shapes(config, about["popular"]), share=mapped)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return LanguageModel(
        **tree,
        config=config,
        vocabulary=bpe.load_vocabulary(about["vocabulary"]),
        record=record,
        spelling=arrays.get("spelling"),
    )


def _shapes(config: model.Config, popular: int) -> dict[str, Any]:
    """The tree of `LanguageModel.arrays`, without its numbers."""

    def build() -> dict[str, Any]:
        params, memory = model.init(jax.random.key(0), config=config)
        lsh = None
        if config.pairs:
            tables = keyvalue.index_config(config.pairs, config.pair_candidates)
            lsh = index.init(jax.random.key(0), params["keys"], config=tables)
        return {
            "params": params,
            "memory": memory,
            "unigram": jnp.zeros(config.vocabulary, jnp.float32),
            "popular": jnp.zeros(popular, np.int32),
            "lsh": lsh,
        }

    return jax.eval_shape(build)
