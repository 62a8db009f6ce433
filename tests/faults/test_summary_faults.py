"""Faults that public bug reports of other tools led to, in summaries.

| row | kind | test |
|---|---|---|
| 4 | marks cut off their letters | test_words_of_summaries_keep_their_marks |
| 5 | sentences end at `. ! ?` and a space only | test_sentences_…, test_a_summary_…, test_a_cut_… |
| 6, 44 | ROUGE sees a-z and 0-9 alone | test_rouge_of_any_script, test_rouge_of_plain_text_… |
| 9 | two processes on one model | test_one_process_trains_into_a_directory |
| 12 | divergence | tests/summarize/test_abstractive.py |
| 22 | UTF-16 | test_texts_are_read_by_their_mark |
"""

from __future__ import annotations

import json
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from in_process import call

from sparse_jax import summarize
from sparse_jax.commands import summarize as script
from sparse_jax.runtime.lock import locked
from sparse_jax.summarize.words import Words, join, split
from sparse_jax.text.segments import clean, count_words, words

CHINESE = "今天天气很好我们出去。公园里的花都开了。孩子们在草地上跑！你想不想一起去？" * 2
CHINESE += "老人坐在树下读书。小狗追着蝴蝶跑来跑去。太阳慢慢落下山了。我们明天还要再来。"


def test_words_of_summaries_keep_their_marks():
    text = "हिन्दी किताब अच्छी है। 日本 か\u3099っこう"
    found = split(text)
    assert found[:4] == ["हिन्दी", "किताब", "अच्छी", "है"] and join(found) == clean(text)
    assert found == split(unicodedata.normalize("NFD", text))
    vocabulary = Words.fit(["हिन्दी किताब"] * 3, ["हिन्दी किताब अच्छी है"] * 3)
    ids, tokens = vocabulary.encode("हिन्दी किताब है")
    assert vocabulary.decode(ids, [(ids, tokens)]) == "हिन्दी किताब है"
    assert vocabulary.decode(ids[:2], []) == "हिन्दी किताब"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([*"aé漢ไ।ि\u0301 \n_(1\x1f\u200d", "क्षि", "👩‍👧"])).map("".join))
def test_tokens_of_any_script_give_the_text_back(text):
    assert join(split(text)) == " ".join(clean(text).split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天下雨。我們走吧！「好。」她說", ["今天下雨。", "我們走吧！", "「好。」", "她說"]),
        ("これはペン？はい！！１．５個です。", ["これはペン？", "はい！！", "１．５個です。"]),
        ("你好!我是小明.今天3.5度", ["你好!", "我是小明.", "今天3.5度"]),
        ("第一行\n第二行。第三", ["第一行第二行。", "第三"]),
        ("यह दिन है। वह आया॥अब", ["यह दिन है।", "वह आया॥", "अब"]),
        ("هل أنت هنا؟ نعم. أنا هنا۔ ثم", ["هل أنت هنا؟", "نعم.", "أنا هنا۔", "ثم"]),
        ("วันนี้อากาศดี เด็ก ๆ เล่นน้ำ แล้วกลับ", ["วันนี้อากาศดี", "เด็ก ๆ เล่นน้ำ", "แล้วกลับ"]),
        ("ሰላም። እንዴት ነህ፧ ደህና", ["ሰላም።", "እንዴት ነህ፧", "ደህና"]),
        ('He said "Hi." Then he left.', ['He said "Hi."', "Then he left."]),
        ("Das ist gut. ändert es", ["Das ist gut. ändert es"]),
    ],
)
def test_sentences_end_as_their_script_ends_them(text, expected):
    assert summarize.sentences(text) == expected


def test_a_summary_of_chinese_is_a_few_whole_sentences():
    for most in (12, 20, 50):
        found = summarize.extractive(CHINESE, max_words=most)
        assert 0 < count_words(found) <= most and len(found) < len(CHINESE) / 2
        kept = summarize.sentences(found)
        assert kept and all(s in summarize.sentences(CHINESE) for s in kept) and " " not in found


@pytest.mark.parametrize("text", ["漢字だけの文章が続く" * 60, "ภาษาไทยไม่มีช่องว่าง" * 30])
def test_a_cut_text_without_spaces_is_short(text):
    found = summarize.extractive(text, max_words=9)
    assert found.endswith(" …") and text.startswith(found[:-2])
    assert count_words(found[:-2]) == 9
    assert count_words("用Python編程。") == 4 and count_words("two words - so") == 4


def test_long_white_space_takes_no_time():
    started = time.perf_counter()
    for space in (" ", "\t", "\u3000"):
        assert summarize.sentences(f"one {space * 60_000} two") == ["one two"]
    assert time.perf_counter() - started < 10  # minutes, where each space looked at all others


def test_rouge_of_any_script():
    pytest.importorskip("rouge_score")
    same = {"rouge1": 100, "rouge2": 100, "rougeL": 100}
    for text in ("यह किताब नई है 5", "привет мир", "今天下雨", "สวัสดีครับ", "café noir", "שלום עולם"):
        assert script.rouge([text], [text]) == pytest.approx(same)
        assert script.rouge([text], [unicodedata.normalize("NFD", text)]) == pytest.approx(same)
    assert script.rouge(["привет 5"], ["пока 5"])["rouge1"] == pytest.approx(50)
    assert script.rouge(["दिन"], ["दीन"])["rouge1"] == 0
    assert script.rouge(["今天下雨"], ["今天晴天"])["rouge1"] == pytest.approx(50)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(max_codepoint=127)))
def test_rouge_of_plain_text_has_the_words_of_rouge_score(text):
    tokenizers = pytest.importorskip("rouge_score.tokenizers")
    assert words(text.lower()) == tokenizers.DefaultTokenizer(False).tokenize(text)


def test_texts_are_read_by_their_mark(tmp_path, capsys):
    path = tmp_path / "u16.txt"
    path.write_bytes("Red apples grow. Green apples fall.".encode("utf-16"))
    status, out, err = call(script, capsys, str(path), "--max-words", "3")
    assert status == 0 and out in ("Red apples grow.\n", "Green apples fall.\n"), err
    path.write_bytes("Red apples grow.".encode("utf-16-le"))
    status, _, err = call(script, capsys, str(path))
    assert status == 2 and "u16.txt, line 1: a NUL character" in err


def test_one_process_trains_into_a_directory(tmp_path, capsys):
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(json.dumps({"text": f"a {i}", "title": "t"}) for i in range(4)))
    with locked(tmp_path / "m"):
        status, _, err = call(script, capsys, "train", str(data), "--out", f"{tmp_path}/m")
        assert status == 2 and "in use by process" in err
    (tmp_path / "m" / "model.json").write_text(
        '{"kind": "xmc", "format": 1, "config": {}, "arrays": {}, "file": "x"}'
    )
    status, _, err = call(script, capsys, "train", str(data), "--out", f"{tmp_path}/m")
    assert status == 2 and "holds a model of kind 'xmc', which would be lost" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["x", "--model", "m", "--max-words", "9"], "--max-words: no effect with --model"),
        (["x", "--max-words", "0"], "--max-words 0: must be at least 1"),
        (["train", "x", "--out", "m", "--max-seconds", "nan"], "--max-seconds nan: must be above"),
        (["train", "x", "--out", "m", "--epochs", "0"], "--epochs 0: must be at least 1"),
    ],
)
def test_options_without_a_meaning_are_refused(options, message, capsys):
    status, _, err = call(script, capsys, *options)
    assert status == 2 and message in err
