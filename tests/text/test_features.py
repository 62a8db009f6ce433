"""Words of texts: which marks belong to them, and what is folded away."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.text.features import GRAM, PAIR, WORD, extract, normalize, pieces, tokenize


@pytest.mark.parametrize(
    "words",
    [
        ["दिन", "दान", "दीन", "दन"],  # day, gift, poor
        ["कर्म", "करम"],  # virama
        ["राज", "राज़"],  # nukta: rule, secret
        ["हिन्दी", "किताब", "हिंदी"],
        ["পড়া", "পড়ি", "পর"],
        ["மலை", "மழை", "மாலை"],
        ["తల", "తెల", "తేలు"],
        ["കല", "കാല", "കോലം"],
        ["กิน", "กัน", "กุน", "กูน", "กน", "กิ่น"],  # vowels above and below, a tone
        ["ກິນ", "ກັນ", "ກຸນ"],
        ["កិន", "កុន", "កន"],
        ["ကို", "ကု", "ကာ"],
        ["བོད", "བད", "བུད"],
        ["ދިން", "ދުން"],
        ["かき", "かぎ", "がき"],  # persimmon, key
        ["ハハ", "ババ", "パパ"],
    ],
)
def test_marks_spell_words(words):
    forms = [[unicodedata.normalize(form, word) for form in ("NFC", "NFD")] for word in words]
    tokens = [{tuple(normalize(form).split()) for form in pair} for pair in forms]
    assert all(len(found) == 1 for found in tokens), "composed and decomposed text differ"
    assert all(len(next(iter(found))) == 1 for found in tokens), "a word was cut"
    assert len(set.union(*tokens)) == len(words), "two words became one"
    # In a sentence as alone, and as features.
    sentence = " ".join(words)
    assert normalize(sentence).split() == [next(iter(found))[0] for found in tokens]
    assert tokenize([sentence]).types.tolist() == list(range(len(words)))
    made = [frozenset(extract([word], num_features=2**31 - 1).ids.tolist()) for word in words]
    assert all(a != b for a, b in itertools.combinations(made, 2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ÉCOLE naïve ﬁn Straße Ångström", "ecole naive fin strasse angstrom"),
        ("cafe\u0301 café", "cafe cafe"),
        ("Việt Nam İstanbul", "viet nam istanbul"),
        ("Ἀθῆναι Йод", "αθηναι иод"),
        ("שָׁלוֹם كِتَاب", "שלום كتاب"),
        ("日本語 テスト 한국어", f"日本語 テスト {unicodedata.normalize('NFKD', '한국어')}"),
        ("\uff46ull ½", "full 1 2"),
        ("a\u2026b\u2013c_d'e", "a b c d e"),
        ("co\u00adoperate", "cooperate"),  # soft hyphen
        ("می\u200cکنم", "می کنم"),  # Persian: two parts
        ("क्\u200cष क्\u200dष क्ष", "क्ष क्ष क्ष"),  # joiners within a word
        ("❤️ 1\ufe0f\u20e3 👩\u200d💻", "1"),
        ("\u093f lone \u0301 ◌\u094d", "lone"),  # marks that follow no letter
        ("", ""),
        ("!?", ""),
    ],
)
def test_folding(text, words):
    assert normalize(text).split() == words.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("C++, C# and C", "c++ c# and c"),
        ("C/C++ (C++11) c++20, C#.NET g++-12", "c c++ c++ 11 c++ 20 c# net g++ 12"),
        ("C♯ C\uff0b\uff0b C\uff03", "c# c++ c#"),
        ("C++ é C#", "c++ e c#"),
        # What other words become is as it was.
        ("libstdc++ notepad++ c++filt", "libstdc notepad c filt"),
        ("a+b a++b x#y page#top #1 1#2 + # ++", "a b a b x y page top 1 1 2"),
        ("C+++ C## C-- C+", "c++ c# c c"),
    ],
)
def test_languages_named_with_signs(text, words):
    assert normalize(text).split() == words.split()


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=30))
def test_any_text(text):
    words = normalize(text).split()
    for form in ("NFC", "NFD"):
        assert normalize(unicodedata.normalize(form, text)).split() == words
    for word in words:
        assert word[0].isalnum()
        marks = [c for c in word if not c.isalnum()]
        assert all(unicodedata.category(c) in ("Mn", "Mc") or c in "+#" for c in marks)
    cut = pieces(text)
    assert "".join(piece for piece, _ in cut) == text
    assert [word for _, found in cut for word in found] == words
    tokens = tokenize([text, text])
    assert tokens.offsets.tolist() == [0, len(words), 2 * len(words)]
    assert [tokens.words[i] for i in tokens.types] == words * 2


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127, exclude_characters="+#"), max_size=30))
def test_ascii_words_are_runs_of_letters_and_digits(text):
    expected = "".join(c.lower() if c.isalnum() else " " for c in text).split()
    assert normalize(text).split() == expected
    assert normalize(text + " é").split() == [*expected, "e"]  # the way of other text


def test_every_character_has_one_folding():
    """Alone, behind a letter, and composed or not: nothing is left of what is no word."""
    for code in np.r_[0:0xD800, 0xE000:0x30000, 0xE0000:0xE0200].tolist():
        word = normalize("a" + chr(code)).split()
        assert word[0][0] == "a"
        assert all(part[0].isalnum() for part in word)


def test_kinds_do_not_meet():
    """A word is no n-gram, nor a pair, whatever letters they begin with."""
    letters = "abcdefghijklmnop"
    words = [f"{a}{b}ts" for a in letters for b in letters]
    # Within a word of its own each of them is an n-gram.
    texts = [*words, *(f"x{word}x" for word in words), " ".join(words)]
    found = extract(texts, num_features=2**31 - 1)
    ids = [set(found.ids[found.kinds == kind].tolist()) for kind in (WORD, GRAM, PAIR)]
    assert len(ids[0]) == 2 * len(words) and len(ids[2]) == len(words) - 1
    assert not ids[0] & ids[1] and not ids[0] & ids[2] and not ids[1] & ids[2]
