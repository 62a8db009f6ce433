"""Where words, characters and sentences of any script begin and end, by Unicode's properties.

Marks and format characters stay with the letter before them, composed and decomposed text are
alike, and in scripts that are written without spaces a character, with its marks, is a word.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Iterator

import regex

__all__ = [
    "ATTACHED",
    "BLANK",
    "SPACELESS",
    "clean",
    "count_words",
    "cut_words",
    "has_spaceless",
    "is_glued",
    "join_sentences",
    "sentences",
    "words",
]

BLANK = r"[\s\x1c-\x1f\u200b\ufeff]"
"""White space, and two characters of no width: the optional break and the byte order mark."""

ATTACHED = r"[[\p{M}\p{Cf}\p{GCB=Extend}\p{GCB=SpacingMark}]--[\u200b\ufeff]]"
"""What belongs to the character before it: vowel signs, accents, joiners, variation selectors."""

_EAST = r"\p{Han}\p{Hiragana}\p{Katakana}\u3005-\u3007\u303b\u30fc\uff70"  # repetition, length
_SOUTH = r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
SPACELESS = rf"[[{_EAST}{_SOUTH}]--[\p{{P}}\p{{Z}}\p{{C}}]--{ATTACHED}]"
"""A character of a script that puts no spaces between words."""

_V1 = regex.VERSION1
_SURROGATE = regex.compile(r"[\ud800-\udfff]")
_MARKS = r"[[\u3000-\u303f\u30fb\ufe10-\ufe6b\uff01-\uff65]&&[\p{P}\p{S}]]"  # of Chinese, Japanese
_EASTERN = regex.compile(rf"[{_EAST}{_MARKS}]", _V1)
_LETTER = rf"[[\p{{L}}\p{{N}}]--{SPACELESS}--{ATTACHED}]"
_WORD = regex.compile(rf"{SPACELESS}{ATTACHED}*|{_LETTER}(?:{_LETTER}|{ATTACHED})*", _V1)
_PIECE = regex.compile(r"\S+")
_HAS_SPACELESS = regex.compile(SPACELESS, _V1)


def clean(text: str) -> str:
    """Text in the form that readers here work on: composed (NFC), halves of characters replaced.

    Example:
      >>> clean("cafe\\u0301 \\ud800") == "caf\\u00e9 \\ufffd"
      True
    """
    if text.isascii():
        return text
    return _SURROGATE.sub("\ufffd", unicodedata.normalize("NFC", text))


def words(text: str) -> list[str]:
    """Runs of letters and digits with their marks; in scripts without spaces, each character.

    Example:
      >>> words("हिन्दी, 漢字2 o'er_it")
      ['हिन्दी', '漢', '字', '2', 'o', 'er', 'it']
    """
    return _WORD.findall(clean(text))


def has_spaceless(text: str) -> bool:
    """Whether a text has a character of a script that puts no spaces between words.

    Example:
      >>> has_spaceless("漢字"), has_spaceless("한국어")
      (True, False)
    """
    return _HAS_SPACELESS.search(text) is not None


def is_glued(before: str, after: str) -> bool:
    """Whether two words stand side by side without a space: in and beside Chinese and Japanese
    always, in other scripts without spaces among themselves.

    Example:
      >>> is_glued("漢", "a"), is_glued("ไ", "ท"), is_glued("ไ", "a"), is_glued("a", "b")
      (True, True, False, False)
    """
    if before.isascii() and after.isascii():
        return False
    left, right = _kind(before[0]), _kind(after[0])
    return "east" in (left, right) or left == right == "south"


@functools.lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    if _EASTERN.match(character):
        return "east"
    return "south" if _HAS_SPACELESS.match(character) else ""


# Sentences ----------------------------------------------------------------------------------------

_CLOSERS = r"[\"'\p{Pe}\p{Pf}\u00bb]*"
_END = regex.compile(
    rf"(?<=[.!?\u2026]{_CLOSERS}){BLANK}++(?=[^\p{{Ll}}\s])"  # a mark and space, no small letter
    # Marks that need no space behind them: of Chinese, Indian, Arabic, Ethiopic … writing.
    rf"|(?<=[[\p{{Sentence_Terminal}}\u0f0d\u0f0e]--[.!?\u2024\uff0e]]{_CLOSERS})"
    rf"(?![\p{{Sentence_Terminal}}\u0f0d\u0f0e\"'\p{{Pe}}\p{{Pf}}\u00bb]){BLANK}*"
    rf"|(?<=\uff0e{_CLOSERS})(?![\p{{Nd}}\uff0e\p{{Pe}}\p{{Pf}}]){BLANK}*"
    rf"|(?<=[{_EAST}][.!?]+)(?=[{_EAST}])"
    # Thai and Lao have no mark: their spaces stand between clauses, but also before a repetition.
    r"|(?<=[\p{Thai}\p{Lao}--[ๆฯໆ]])[ \t]+(?=[\p{Thai}\p{Lao}--[ๆฯໆ]])"
    # From the first of several white spaces on: no run of them is read more than twice.
    r"|\n\s*\n|(?<![^\S\n])\s++(?:[*\u2022]\s+|-\s+(?=\p{Lu}))",
    _V1,
)
_ABBREVIATION = regex.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|Dr|Mr|Mrs|Ms|St|No|Fig|approx)|\b[A-Z])\.$"
)
_WRAPPED = regex.compile(rf"(?<=[{_EAST}{_MARKS}])\n(?=[{_EAST}])", _V1)


def sentences(text: str) -> list[str]:
    """Splits a text into sentences; between the letters of one all white space becomes one space.

    A sentence ends behind `.`, `!` or `?` and a space, unless a small letter follows; behind the
    marks that end sentences in other scripts; at spaces between Thai or Lao letters; at a blank
    line or a bullet.

    Example:
      >>> sentences("See e.g. Smith. It works! * one * two")
      ['See e.g. Smith.', 'It works!', 'one', 'two']
      >>> sentences("今天下雨。我們走吧！「好。」她說")
      ['今天下雨。', '我們走吧！', '「好。」', '她說']
    """
    text = clean(text)
    if not text.isascii():
        text = _WRAPPED.sub("", text)
    found: list[str] = []
    joined = False
    for part in _END.split(text):
        part = " ".join(part.split()).lstrip("*\u2022 ")
        if not part:
            continue
        if joined:
            found[-1] += " " + part
        else:
            found.append(part)
        joined = bool(_ABBREVIATION.search(part))
    return found


def join_sentences(parts: list[str]) -> str:
    """Sentences side by side, with a space but between two of Chinese or Japanese.

    Example:
      >>> join_sentences(["One.", "Two.", "三。", "四。"])
      'One. Two. 三。四。'
    """
    out = ""
    for part in parts:
        if out and not (_EASTERN.match(out[-1]) and _EASTERN.match(part[0])):
            out += " "
        out += part
    return out


# Counting -----------------------------------------------------------------------------------------


def count_words(text: str) -> int:
    """Pieces between white space; where words have no spaces between them, characters.

    Example:
      >>> count_words("two words - so"), count_words("用Python編程。"), count_words("สวัสดี")
      (4, 4, 4)
    """
    return sum(1 for _ in _ends(text))


def cut_words(text: str, count: int) -> str:
    """The first so many words of a text, as `count_words` counts them.

    Example:
      >>> cut_words("one two three", 2), cut_words("用Python編程。", 3)
      ('one two', '用Python編')
    """
    for number, end in enumerate(_ends(text), 1):
        if number == count:
            return text[:end].rstrip()
    return text


def _ends(text: str) -> Iterator[int]:
    """Where each word ends; the last one of a piece has what stands behind it."""
    for piece in _PIECE.finditer(text):
        if not has_spaceless(piece[0]):
            yield piece.end()
            continue
        found = [match.end() for match in _WORD.finditer(piece[0])]
        yield from (piece.start() + end for end in found[:-1])
        yield piece.end()
