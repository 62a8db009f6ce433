"""Byte-level BPE through the `tokenizers` library: no unknown token, and text comes back whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from sparse_jax.lm.text import DOCUMENT, SPECIAL

_NAMES = ["<|unk|>", "<|end|>", "<|2|>", "<|3|>"]  # hold the first ids, as in word vocabularies


@dataclasses.dataclass(frozen=True, eq=False)
class BpeVocabulary:
    """A byte-level BPE; `tokenizer` is the library's."""

    tokenizer: Any

    lossless = True

    def __post_init__(self) -> None:
        # A special token's name within a text is plain text; the library doesn't save this choice.
        self.tokenizer.encode_special_tokens = True

    @classmethod
    def fit(cls, texts: Iterable[str], *, size: int = 32_768) -> BpeVocabulary:
        """Trains the merges on some texts.

        Raises:
          ImportError: if `tokenizers` is missing.
          ValueError: if size leaves no room for the 256 bytes.
        """
        if size < 256 + len(SPECIAL):
            raise ValueError(f"size = {size}: must be at least {256 + len(SPECIAL)}")
        lib = _library()
        tokenizer = lib.Tokenizer(lib.models.BPE())
        tokenizer.pre_tokenizer = lib.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = lib.decoders.ByteLevel()
        trainer = lib.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=_NAMES,
            show_progress=False,
            initial_alphabet=sorted(lib.pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator(texts, trainer)
        return cls(tokenizer)

    @property
    def size(self) -> int:
        """Number of ids."""
        return int(self.tokenizer.get_vocab_size())

    def encode(self, text: str) -> np.ndarray:
        """Token ids of a text, int32, without an end of document."""
        ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, np.int32)

    def decode(self, ids: Iterable[int]) -> str:
        """The text; ends of documents become blank lines."""
        parts: list[list[int]] = [[]]
        for i in map(int, ids):
            if i == DOCUMENT:
                parts.append([])
            else:
                parts[-1].append(i)
        return "\n\n".join(self.tokenizer.decode(part) for part in parts)

    def state(self) -> dict[str, object]:
        """What `load_vocabulary` makes it from again, as JSON knows it."""
        return {"kind": "bpe", "tokenizer": self.tokenizer.to_str()}


def load_vocabulary(state: dict[str, Any]) -> Any:
    """The vocabulary whose `state()` was given.

    Example:
      >>> from sparse_jax.lm.text import WordVocabulary
      >>> load_vocabulary(WordVocabulary.fit(["a"], min_count=1).state()).size
      5
    """
    from sparse_jax.lm.text import WordVocabulary

    if state["kind"] == "word":
        return WordVocabulary(tuple(state["words"]))
    return BpeVocabulary(_library().Tokenizer.from_str(state["tokenizer"]))


def _library() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise ImportError(
            "byte-level BPE needs the tokenizers library: pip install 'sparse_jax[lm]'",
            name="tokenizers",
        ) from error
    return tokenizers
