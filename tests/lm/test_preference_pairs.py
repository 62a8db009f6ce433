"""Pairs for preference tuning: read, split by topic, packed."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from topic_questions import questions

from sparse_jax.lm.preference import pairs
from sparse_jax.lm.text import DOCUMENT, PARAGRAPH, WordVocabulary


def write(path: Path, rows: list[dict[str, str]]) -> str:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_questions_are_split_by_topic_and_paired_within_it(tmp_path):
    rows = [*questions(60), {"kind": "alias_query", "text": "x"}]
    made = pairs.read(write(tmp_path / "q.jsonl.gz", rows))
    topic = lambda text: text.split("number ")[1].split()[0]  # noqa: E731
    sides = [{topic(p.chosen) for p in side} for side in (made.train, made.test)]
    assert sides[0] and sides[1] and not sides[0] & sides[1]
    assert len(made.train) + len(made.test) == 180 == len(made.texts) + len(made.held_out)
    assert {topic(t) for t in made.held_out} == sides[1]
    for pair in made.train + made.test:
        kind = pair.prompt.split()[0]
        assert pair.chosen.startswith(kind) and not pair.rejected.startswith(kind)
        assert topic(pair.chosen) == topic(pair.rejected)
    assert pairs.read(tmp_path / "q.jsonl.gz", seed=1).train != made.train


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}\n{", "line 2: is no JSON"),
        ("[1]\n", "line 1: must be an object"),
        ('{"prompt": "a", "chosen": "b"}\n', "line 1: needs a text as 'rejected'"),
        ("", "0 pairs to train on and 0 to test on"),
    ],
)
def test_bad_files_are_named_with_their_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        pairs.read(path)


def test_packing_cuts_prompts_in_front_and_answers_behind():
    prompts = [np.arange(4, 9), np.array([4])]
    batch = pairs.pack(prompts, [np.array([9, 9, 9]), np.array([], int)], history=3, length=2)
    assert batch.tokens.tolist() == [[6, 7, 8, 9, 9], [1, 1, 4, DOCUMENT, 1]]
    assert batch.since.tolist() == [[3, 4], [1, -1]]
    vocabulary = WordVocabulary.fit(["a b a b"], min_count=1)
    both, asked = pairs.encode([pairs.Pair("a", "b", "a")], vocabulary, history=3, length=2)
    assert asked[0].tolist()[-1] == PARAGRAPH
    assert both.tokens[:, 3].tolist() == [vocabulary.encode(w)[0] for w in ("b", "a")]
    assert pairs.take(both, np.array([0])).tokens.tolist() == both.tokens.tolist()
