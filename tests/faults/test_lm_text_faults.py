"""Faults that public bug reports of other tools led to, in how the language model reads text.

| row | kind | test |
|---|---|---|
| 4 | marks cut off their letters | test_text_comes_back, test_reading_…, test_composed_… |
| 22, 23 | UTF-16, byte order marks | test_texts_are_read_by_their_mark |
"""

from __future__ import annotations

import gzip
import unicodedata

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax.lm import text
from sparse_jax.text.segments import clean


@pytest.mark.parametrize(
    "given_text",
    [
        "हिन्दी किताब",
        "यह दिन अच्छा है। वह दीन आदमी है।",
        "தமிழ் மொழி",
        "שָׁלוֹם עוֹלָם",
        "شكراً جزيلاً، كيف حالك؟",
        "می‌خواهم بروم",  # the non-joiner is part of the word
        "日本語のテキストです。今日は「いい」天気！",
        "สวัสดีครับ",
        "ខ្មែរ",
        "한국어 텍스트",
        "Việt Nam",
        "👩‍👩‍👧 👍🏽 🇩🇪",
        "¿Qué tal? ¡Hola!",
    ],
)
def test_text_comes_back(given_text):
    vocabulary = text.WordVocabulary.fit([given_text], min_count=1)
    assert vocabulary.decode(vocabulary.encode(given_text)) == given_text
    decomposed = unicodedata.normalize("NFD", given_text)
    assert vocabulary.decode(vocabulary.encode(decomposed)) == clean(given_text)


MORE = ["e\u0301", "\u1112\u1161", "\n\n", "क्षि", "👩‍👧", "🇩🇪", "བོད་"]
PIECES = st.sampled_from([*"aéか漢ไ။།،(«\"'_1 \n\u0301\u200d\u200b\u0600ﾞ", *MORE])


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(), st.lists(PIECES).map("".join)))
def test_reading_what_was_written_gives_the_same_words_and_only_spaces_change(given_text):
    words = list(text.split_words(given_text))
    written = text.join_words(words)
    assert list(text.split_words(written)) == words
    visible = lambda t: regex.sub(text.BLANK, "", t, flags=regex.VERSION1)  # noqa: E731
    assert visible(written) == visible(clean(given_text))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127)))
def test_plain_ascii_is_read_as_ever(given_text):
    assert text._TOKEN.findall(given_text) == text._WIDE_TOKEN.findall(given_text)


def test_composed_and_decomposed_text_are_one(tmp_path):
    composed = "le café est près du théâtre"
    vocabulary = text.WordVocabulary.fit([composed], min_count=1)
    ids = vocabulary.encode(unicodedata.normalize("NFD", composed))
    assert ids.tolist() == vocabulary.encode(composed).tolist() and 0 not in ids
    (tmp_path / "nfd.txt").write_text(unicodedata.normalize("NFD", composed))
    assert text.read_documents([tmp_path / "nfd.txt"]) == [composed]


def test_texts_are_read_by_their_mark(tmp_path):
    words = "red apples grow. Äpfel\n"
    for name, content in {
        "utf8": words.encode("utf-8-sig"),
        "16le": b"\xff\xfe" + words.encode("utf-16-le"),
        "16be": b"\xfe\xff" + words.encode("utf-16-be"),
        "32": words.encode("utf-32"),
        "gz": gzip.compress(words.encode("utf-16")),
    }.items():
        (tmp_path / name).write_bytes(content)
        assert text.read_documents([tmp_path / name]) == [words], name
    (tmp_path / "bare").write_bytes(words.encode("utf-16-le"))
    with pytest.raises(ValueError, match=r"bare, line 1: a NUL .* UTF-16"):
        text.read_documents([tmp_path / "bare"])
    (tmp_path / "latin").write_bytes("Äpfel für alle".encode("latin-1"))
    assert "2 bytes are no UTF-8" in text.read_texts([tmp_path / "latin"]).notes[0]
    (tmp_path / "mixed").write_bytes("\ufeffred ".encode() + "Äpfel".encode("latin-1"))
    assert text.read_documents([tmp_path / "mixed"]) == ["red \ufffdpfel"]
