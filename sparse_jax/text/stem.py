"""Stems of English words: what inflected forms of a word have in common.

The algorithm of 1980 as it was published, which its author declared frozen: an index keeps what
was made of its words, and must find it again years later.

Reference: Porter, An algorithm for suffix stripping, Program 14(3), 1980.
"""

from __future__ import annotations

import functools
import re

__all__ = ["stem"]

_C, _V = "(?:[^aeiouy]|^y|(?<=[aeiou])y)", "(?:[aeiou]|(?<=[^aeiou])y)"
_MEASURED = re.compile(f"{_V}{_C}")  # each is one of the paper's m
_VOWEL = re.compile(_V)
_DOUBLE = re.compile(r"([^aeiouylsz])\1$")
_SHORT = re.compile(f"{_C}{_V}[^aeiouywx]$")
_ENGLISH = re.compile(r"[a-z]{3,}")

_SECOND = (
    ("ational", "ate"),
    ("tional", "tion"),
    ("enci", "ence"),
    ("anci", "ance"),
    ("izer", "ize"),
    ("abli", "able"),
    ("alli", "al"),
    ("entli", "ent"),
    ("eli", "e"),
    ("ousli", "ous"),
    ("ization", "ize"),
    ("ation", "ate"),
    ("ator", "ate"),
    ("alism", "al"),
    ("iveness", "ive"),
    ("fulness", "ful"),
    ("ousness", "ous"),
    ("aliti", "al"),
    ("iviti", "ive"),
    ("biliti", "ble"),
)
_THIRD = (
    ("icate", "ic"),
    ("ative", ""),
    ("alize", "al"),
    ("iciti", "ic"),
    ("ical", "ic"),
    ("ful", ""),
    ("ness", ""),
)
_FOURTH = tuple(
    (suffix, "")
    for suffix in (
        "ement al ance ence er ic able ible ant ment ent ion ou ism ate iti ous ive ize".split()
    )
)


@functools.lru_cache(maxsize=1 << 17)
def stem(word: str) -> str:
    """The stem of a normalized word; words of other letters than a to z are their own.

    Args:
      word: as `text.features.normalize` has it.

    Returns:
      Its stem, which need not be a word.

    Example:
      >>> [stem(word) for word in "relational hopping flies c++ größe".split()]
      ['relat', 'hop', 'fli', 'c++', 'größe']
    """
    if not _ENGLISH.fullmatch(word):
        return word
    word = _plural(word)
    word = _past(word)
    if word.endswith("y") and _VOWEL.search(word, 0, len(word) - 1):
        word = word[:-1] + "i"
    word = _replace(word, _SECOND, 0)
    word = _replace(word, _THIRD, 0)
    word = _replace(word, _FOURTH, 1)
    if word.endswith("e"):
        short, size = word[:-1], _measure(word[:-1])
        if size > 1 or (size == 1 and not _SHORT.search(short)):
            word = short
    if word.endswith("ll") and _measure(word) > 1:
        word = word[:-1]
    return word


def _measure(word: str) -> int:
    """m of the paper: how often consonants follow vowels."""
    return sum(1 for _ in _MEASURED.finditer(word))


def _plural(word: str) -> str:
    if word.endswith(("sses", "ies")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word


def _past(word: str) -> str:
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) else word
    for suffix in ("ed", "ing"):
        if word.endswith(suffix):
            short = word[: -len(suffix)]
            return _repaired(short) if _VOWEL.search(short) else word
    return word


def _repaired(word: str) -> str:
    """What is left without -ed or -ing, with the e that it lost, and without a letter doubled."""
    if word.endswith(("at", "bl", "iz")):
        return word + "e"
    if _DOUBLE.search(word):
        return word[:-1]
    return word + "e" if _measure(word) == 1 and _SHORT.search(word) else word


def _replace(word: str, rules: tuple[tuple[str, str], ...], least: int) -> str:
    """By the longest suffix that fits, if the measure before it is above `least`."""
    fits = [rule for rule in rules if word.endswith(rule[0])]
    if not fits:
        return word
    suffix, new = max(fits, key=lambda rule: len(rule[0]))
    short = word[: -len(suffix)]
    if _measure(short) <= least or (suffix == "ion" and not short.endswith(("s", "t"))):
        return word
    return short + new
