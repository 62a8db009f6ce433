"""A reward model kept on disk, to choose among answers that a language model has drawn."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from sparse_jax.lm.preference import pairs, reward
from sparse_jax.lm.text import Vocabulary
from sparse_jax.runtime import saved

__all__ = ["FOLDER", "Judge", "load", "save"]

KIND = "reward"
FOLDER = "judge"
"""Where a judge lies in the directory of the language model whose answers it judges."""


@dataclasses.dataclass(frozen=True)
class Judge:
    """A reward model of `reward`, with the word vectors that it was trained on."""

    params: dict[str, Any]  # of `RewardState`
    embed: Any  # float32 [V, e]
    history: int  # tokens of a prompt that count
    length: int  # tokens of an answer that count
    of: str = ""  # which language model it was trained beside: its file of arrays

    def score(self, vocabulary: Vocabulary, prompt: str, answers: Sequence[str]) -> np.ndarray:
        """Rewards of answers to one prompt.

        Args:
          vocabulary: of the language model that the judge was trained beside.
          prompt: what they answer.
          answers: n texts, at least one.

        Returns:
          float32 [n], the higher the better.
        """
        prompts = [pairs.encode_prompt(vocabulary, prompt)] * len(answers)
        tokens = [vocabulary.encode(answer) for answer in answers]
        batch = pairs.pack(prompts, tokens, history=self.history, length=self.length)
        return reward.score(self.params, self.embed, batch)


def save(judge: Judge, path: str | os.PathLike[str]) -> None:
    """Writes a judge into a directory, in the place of the one that may be there.

    Args:
      judge: what to write.
      path: of the directory, made if missing.

    Raises:
      OSError: if it can't be written; the one that was there is then as it was.

    Example:
      >>> import tempfile
      >>> from sparse_jax.lm.text import WordVocabulary
      >>> words = WordVocabulary.fit(["a b a b"], min_count=2)
      >>> params = {"match": jnp.zeros((2, 2)), "pairs": jnp.arange(8, dtype=jnp.float32)}
      >>> judge = Judge(params, jnp.ones((words.size, 2)), history=4, length=4)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     save(judge, folder)
      ...     again = load(folder)
      >>> rewards = again.score(words, "a", ["a b", "b"])
      >>> bool((rewards == judge.score(words, "a", ["a b", "b"])).all())
      True
    """
    config = {"history": judge.history, "length": judge.length, "of": judge.of}
    saved.save(path, kind=KIND, config=config, arrays={**judge.params, "embed": judge.embed})


def load(path: str | os.PathLike[str]) -> Judge:
    """Reads what `save` wrote; nothing is unpickled.

    Args:
      path: of the directory.

    Raises:
      ValueError: if there is no judge, or it is damaged.
    """
    about, arrays = saved.load(path, kind=KIND)
    try:
        params = {name: jnp.asarray(arrays[name]) for name in ("match", "pairs")}
        sizes = {name: about[name] for name in ("history", "length", "of")}
        return Judge(params, jnp.asarray(arrays["embed"]), **sizes)
    except KeyError as error:
        raise ValueError(f"{path}: lacks {error}: another version saved it; tune anew") from None
