"""Text as word ids and back: words in small letters, marks with the spaces around them.

Ids below `outputs` can be generated; all others can only be copied. A word that training has not
seen often enough shares one of a few hashed ids with others; copying it from a text brings back its
letters as they stand there.
"""

from __future__ import annotations

import dataclasses
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import regex

from sparse_jax.text.segments import ATTACHED, SPACELESS, clean

__all__ = ["END", "UNKNOWN", "Words", "split"]

END, UNKNOWN = 0, 1
"""The end of a summary, which also stands before its first word; a word that can't be made."""

_TOKEN = re.compile(r"[^\W_]+|\s*[\W_]\s*")
# The same for all scripts: vowel signs and accents stay with their letters, and what is written
# without spaces is a token a character.
_LETTER = rf"[[\p{{L}}\p{{N}}]--{SPACELESS}--{ATTACHED}]"
_SPACE = r"[\s\x1c-\x1f]"
_WIDE_TOKEN = regex.compile(
    rf"{_LETTER}(?:{_LETTER}|{ATTACHED})*"
    rf"|{_SPACE}*(?!{_LETTER})(?:{ATTACHED}+|\X{ATTACHED}*){_SPACE}*",
    regex.VERSION1,
)
_WORD = regex.compile(_LETTER, regex.VERSION1)


def split(text: str) -> list[str]:
    """Words, and marks one by one with a space on each side that has white space.

    Joining them, with a space between two words, gives the text back but for its white space, and
    with accents composed (Unicode's NFC). A character of a script without spaces, as Chinese, is
    like a mark.

    Example:
      >>> split("Real-time (RTS) - it's")
      ['Real', '-', 'time', ' (', 'RTS', ') ', '- ', 'it', "'", 's']
      >>> split("हिन्दी किताब 漢字")
      ['हिन्दी', 'किताब', ' 漢', '字']
    """
    text = clean(text.strip())
    found = (_TOKEN if text.isascii() else _WIDE_TOKEN).findall(text)
    return [re.sub(r"\s+", " ", token) for token in found if token.strip()]


def join(tokens: Sequence[str]) -> str:
    """The text that tokens of `split` make.

    Example:
      >>> join(["a", "b", " (", "c", ")"])
      'a b (c)'
    """
    out, after_word = "", False
    for token in tokens:
        word = _is_word(token)
        out += " " + token if after_word and word else token
        after_word = word
    return " ".join(out.split())


def _is_word(token: str) -> bool:
    return token[0].isalnum() if token.isascii() else bool(_WORD.match(token))


@dataclasses.dataclass(frozen=True, eq=False)
class Words:
    """Ids of words: END, UNKNOWN, the other outputs, words only read, hashed ids.

    Example:
      >>> words = Words.fit(["a tool", "a Tool"], ["for b b"], min_count=2, buckets=8)
      >>> words.outputs, words.size, words.encode("A tool")[0].tolist()
      (4, 13, [2, 3])
    """

    forms: tuple[str, ...]  # how each word is most often written in summaries, or else in texts
    outputs: int
    buckets: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "_ids", {w.lower(): i for i, w in enumerate(self.forms)})

    @classmethod
    def fit(
        cls,
        summaries: Iterable[str],
        texts: Iterable[str],
        *,
        outputs: int = 12_000,
        min_count: int = 3,
        buckets: int = 8192,
    ) -> Words:
        """Counts words: the most frequent of summaries are outputs, most frequent first.

        Args:
          summaries: of the training pairs.
          texts: of the training pairs.
          outputs: ids that can be generated at most, END and UNKNOWN included.
          min_count: occurrences, in summaries for an output, in all for any id of its own.
          buckets: hashed ids for all other words.
        """
        short, long = Counter[str](), Counter[str]()
        for counts, given in ((short, summaries), (long, texts)):
            for text in given:
                counts.update(split(text))
        # Of several ways to write a word the most frequent; the first in order if equal.
        shown: dict[str, tuple[int, int, str]] = {}
        totals: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        for weight, (counts, total) in enumerate(zip((long, short), totals, strict=True)):
            for form in sorted(counts):
                word = form.lower()
                total[word] += counts[form]
                shown[word] = max(shown.get(word, (-1, 0, "")), (weight, counts[form], form))
        from_texts, from_summaries = totals
        ranked = sorted((-n, w) for w, n in from_summaries.items() if n >= min_count)
        generated = [w for _, w in ranked[: outputs - 2]]
        both = from_texts + from_summaries
        rest = sorted((-n, w) for w, n in both.items() if n >= min_count)
        taken = set(generated)
        order = generated + [w for _, w in rest if w not in taken]
        return cls(("\n", "\0", *(shown[w][2] for w in order)), len(generated) + 2, buckets)

    @property
    def size(self) -> int:
        """Number of ids."""
        return len(self.forms) + self.buckets

    def encode(self, text: str) -> tuple[np.ndarray, list[str]]:
        """Ids of a text's words, int32, and the words as written."""
        tokens = split(text)
        return np.fromiter((self._id(t.lower()) for t in tokens), np.int32, len(tokens)), tokens

    def _id(self, word: str) -> int:
        found = self._ids.get(word)  # type: ignore[attr-defined]
        if found is not None:
            return found
        return len(self.forms) + zlib.crc32(word.encode("utf-8", "surrogatepass")) % self.buckets

    def decode(self, ids: Iterable[int], sources: Sequence[tuple[np.ndarray, list[str]]]) -> str:
        """A summary's text; a word that a source has is written as the first such source does.

        Args:
          ids: without END.
          sources: as `encode` gives them.
        """
        forms: dict[int, str] = {}
        for numbers, tokens in sources:
            for number, token in zip(numbers.tolist(), tokens, strict=True):
                forms.setdefault(number, token)
        return join([forms[i] if i in forms else self.forms[i] for i in map(int, ids)])
