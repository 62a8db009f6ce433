"""Answers are pieces of the passage that answers, chosen by what tells passages apart."""

from __future__ import annotations

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

import numpy as np
from small_index import TINY

from sparse_jax import search
from sparse_jax.search import answers
from sparse_jax.search.answers import answer, answer_from, split
from sparse_jax.text.segments import count_words, join_sentences

D = search.Document
FILLER = "Many people keep it, and much has been said of it in all kinds of books. "
DOCUMENTS = [
    D("what", "Zorn plum is a small tree of the north. It bears fruit early.", "Zorn plum"),
    D(
        "cure",
        "A treatment of rot that harms zorn plum begins by pruning. Then comes spray.",
        "Zorn plum",
    ),
    D(
        "where",
        "In cold valleys growers have reported zorn plum. Soil matters little.",
        "Zorn plum",
    ),
    D(
        "long",
        "Brake fern is a plant. "
        + FILLER * 4
        + "Blossoms of the fern appear in May. They last a week.",
        "Brake fern",
    ),
    D("cars", "Cars need fuel. Engines turn it into motion.", "Cars"),
]


@pytest.fixture(scope="module")
def index():
    with search.fit(DOCUMENTS, config=TINY) as made:
        yield made


def source(found: answers.Answer) -> str | None:
    return None if found.source is None else found.passages[found.source].id


@pytest.mark.parametrize(
    ("question", "id"),
    [
        ("What is zorn plum?", "what"),
        ("What is the treatment of zorn plum?", "cure"),
        ("When are zorn plums pruned?", "cure"),  # by stems
        ("In which valleys was zorn plum reported?", "where"),
    ],
)
def test_what_tells_passages_apart_decides(index, question, id):
    found = answer(index, question)
    assert source(found) == id
    assert found.text == index.get(id).text  # all of it fits


def test_a_long_passage_is_begun_where_it_answers(index):
    found = answer(index, "When do blossoms of brake fern appear?")
    assert source(found) == "long"
    assert found.sentences == ("Blossoms of the fern appear in May.", "They last a week.")
    assert answer(index, "What is brake fern?").text.startswith("Brake fern is a plant.")


def test_the_beginning_is_left_for_a_reason():
    """Three words sooner are none."""
    near = "Fruit is sweet. Red apples grow on trees."
    with search.fit([D("a", near), D("b", "Cars need fuel.")], config=TINY) as index:
        assert answer(index, "Where do apples grow?").text == near
        assert answer(index, "Where do apples grow?").starts == (0, 0)


@pytest.mark.parametrize("max_words", [1, 5, 8, 12, 60])
def test_an_answer_is_a_piece_of_one_passage(index, max_words):
    found = answer(index, "What is the treatment of zorn plum?", max_words=max_words)
    passage = split(found.passages[found.source].document.text)
    assert 1 <= count_words(found.text.removesuffix(" …")) <= max_words
    if found.text.endswith(" …"):  # not even one sentence fits
        assert passage[found.starts[found.source]].startswith(found.text.removesuffix(" …"))
    else:
        start = found.starts[found.source]
        assert list(found.sentences) == passage[start : start + len(found.sentences)]
        assert found.text == join_sentences(list(found.sentences))


def test_it_says_when_it_does_not_know(index):
    found = answer(index, "Who invented the telescope?")
    assert not found.is_known and found.text == "" and found.source is None
    assert found.missing == ("invented", "telescope") and found.evidence == 0
    assert len(found.passages) == 5  # they are shown all the same
    half = answer(index, "Do zorn plums cure telescopitis and hiccups and snoring?")
    assert not half.is_known and 0 < half.evidence < answers.MIN_EVIDENCE
    assert {"telescopitis", "hiccups", "snoring"} <= set(half.missing)


def test_evidence_is_a_share_of_the_question(index, monkeypatch):
    """Of two words one is held: the share is that of its rarity."""
    found = answer(index, "fuel telescope")
    bm25 = index._engine.bm25
    alive, held = bm25.num_alive, 1
    rarity = [np.log1p((alive - n + 0.5) / (n + 0.5)) for n in (held, 0)]
    assert found.evidence == pytest.approx(rarity[0] / sum(rarity), rel=1e-5)
    assert not found.is_known
    monkeypatch.setattr(answers, "MIN_EVIDENCE", found.evidence)  # the bound itself is enough
    assert source(answer(index, "fuel telescope")) == "cars"


def test_a_question_of_function_words_alone_is_asked_all_the_same(index):
    assert answer(index, "What is it?").passages


def test_lessons_count(tmp_path):
    with search.fit(DOCUMENTS, config=TINY) as index:
        assert not answer(index, "How is ZPR handled?").is_known
        index.associate("zpr handled", "treatment rot")
        found = answer(index, "How is ZPR handled?")
        assert source(found) == "cure" and found.evidence == 1
        index.upvote("Who knows the telescope?", "cars")
        found = answer(index, "who knows the TELESCOPE")
        assert source(found) == "cars" and found.evidence == 1 and found.missing == ()
        assert not answer(index, "who knows another telescope").is_known


def test_only_documents_that_are_allowed_answer():
    documents = [D(id, "Red apples grow.", metadata={"n": n}) for n, id in enumerate("ab")]
    with search.fit(documents, config=TINY) as index:
        assert source(answer(index, "apples", where={"n": 1})) == "b"
        assert not answer(index, "apples", where={"n": 2}).passages


def test_titles_answer_where_there_is_no_text():
    with search.fit([D("a", "", "Red apples grow"), D("b", "Cars.")], config=TINY) as index:
        assert answer(index, "apples").text == "Red apples grow"


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("蘋果長在樹上", "蘋果長在樹上。"),
        ("蘋果長在哪裡？", "蘋果長在樹上。"),  # words within a clause
        ("蘋果", "蘋果長在樹上。"),
        ("汽車需要什麼？ Engine", "汽車需要汽油。有engines。"),
        ("りんごはどこに実りますか", "りんごは木に実ります。"),
        ("เรือลอยน้ำไหม", "เรือลอยน้ำ"),
        ("蘋果治什麼病？", ""),
        ("魚", ""),
    ],
)
def test_scripts_without_spaces(question, text):
    documents = [
        D("a", "今天從早到晚一直下雨天氣不好。蘋果長在樹上。", "天氣"),
        D("b", "汽車需要汽油。有engines。", "汽車"),
        D("c", "昨日は朝から晩まで雨が降りました。りんごは木に実ります。", "果物"),
        D("d", "เรือลอยน้ำ", ""),
    ]
    with search.fit(documents, config=TINY) as index:
        found = answer(index, question)
        assert found.is_known == bool(text) and text in found.text
        assert found.is_known or found.missing


def test_an_answer_of_a_script_without_spaces_begins_and_ends_where_it_should():
    text = "今天從早到晚一直下雨天氣不好。" * 3 + "蘋果長在樹上。明天也會下雨。"
    with search.fit([D("a", text), D("b", "汽車需要汽油。")], config=TINY) as index:
        assert answer(index, "蘋果長在樹上", max_words=8).text == "蘋果長在樹上。"
        assert answer(index, "蘋果長在樹上", max_words=3).text == "蘋果長 …"


def test_a_character_of_a_word_and_its_neighbours_are_held():
    assert answers._held("蘋果tree, trees") == [
        ("蘋", "蘋果"),
        ("果", "果tree"),
        ("tree",),
        ("tree",),
    ]


def test_lessons_count_in_scripts_without_spaces():
    documents = [D("a", "汽車需要汽油。"), D("b", "蘋果長在樹上。")]
    with search.fit(documents, config=TINY) as index:
        assert not answer(index, "轎車要加油嗎").is_known
        index.associate("轎車", "汽車")
        found = answer_from(index, "轎車", index.search("轎車"))
        assert source(found) == "a" and found.evidence == 1.0


def test_passages_found_before(index):
    question = "What is the treatment of zorn plum?"
    passages = index.search(question, k=5)
    assert answer_from(index, question, passages) == answer(index, question)
    assert answer_from(index, question, []).passages == ()


@pytest.mark.parametrize(
    ("question", "named", "message"),
    [
        ("x", {"max_words": 0}, "max_words = 0: must be at least 1"),
        ("x", {"k": 0}, "k = 0: must be at least 1"),
        (" ?", {}, "no letter or digit"),
    ],
)
def test_mistakes_are_said(index, question, named, message):
    with pytest.raises(ValueError, match=message):
        answer(index, question, **named)
    with pytest.raises(ValueError, match="max_words = 0"):
        answer_from(index, "x", [], max_words=0)
