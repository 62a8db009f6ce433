"""Faults that public bug reports of other tools led to, in preference tuning and its options.

| row | kind | test |
|---|---|---|
| 7 | evaluation on training text | test_a_tuned_model_knows_what_it_learned_from |
| 12 | divergence | test_divergence_ends_tuning_and_saves_nothing |
| 13 | pairs alike once cut or encoded | test_pairs_that_are_alike_are_counted_and_named |
| 26 | no prompt; lists of messages | test_rows_of_all_kinds |
| 27 | empty answers | test_empty_answers_are_kept_and_told |
| 28 | one prompt, many pairs | test_one_prompt_is_split_by_pair, test_few_groups_… |
|  | options without effect, `--rows 18` | test_options_without_a_meaning_are_refused |
"""

from __future__ import annotations

import json
import os

import jax
import numpy as np
import pytest
from in_process import call

from sparse_jax import lm
from sparse_jax.commands import preference
from sparse_jax.commands.lm import evaluate as eval_lm
from sparse_jax.commands.lm import generate
from sparse_jax.commands.lm import train as train_lm
from sparse_jax.lm.preference import pairs
from sparse_jax.lm.text import DOCUMENT, WordVocabulary
from sparse_jax.runtime import saved
from sparse_jax.runtime.lock import locked

pytestmark = pytest.mark.usefixtures("quick_compiles")

SAME = "one two three four five six seven eight"


def write(path, rows) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def rows(ends=("yes it is", "no it is not"), before="", count=60):
    return [
        {
            "prompt": f"question {i} about red things",
            "chosen": f"{before} {ends[0]}",
            "rejected": f"{before} {ends[1]}",
        }
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A small model of both answers."""
    folder = tmp_path_factory.mktemp("base")
    text = "\n\n".join([f"question about red things {SAME} yes it is", f"{SAME} no it is not"] * 99)
    (folder / "a.txt").write_text(text)
    options = ["--rows", "2048", "--hidden", "16", "--active", "16", "--batch-size", "128"]
    assert train_lm.main([f"{folder}/a.txt", *options, "--checkpoint", f"{folder}/m"]) == 0
    return str(folder / "m")


def messages(*texts: str) -> list[dict[str, str]]:
    roles = ("user", "assistant") * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"prompt": "hi", "chosen": "yes", "rejected": "no"}, ("hi", "yes", "no")),
        (
            {"prompt": None, "chosen": "It is red", "rejected": "It is blue"},
            ("It is", "red", "blue"),
        ),
        ({"chosen": "yes", "rejected": "no"}, ("", "yes", "no")),
        ({"chosen": "same", "rejected": "same"}, ("", "same", "same")),
        ({"chosen": "It is red", "rejected": "It is red"}, ("", "It is red", "It is red")),
        (
            {"chosen": "Human: a\n\nAssistant: so", "rejected": "Human: a\n\nAssistant: so not"},
            ("Human: a\n\nAssistant:", "so", "so not"),
        ),
        (
            {
                "chosen": "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: it is so",
                "rejected": "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: it is not",
            },
            ("Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:", "it is so", "it is not"),
        ),
        (
            {"chosen": messages("It is red"), "rejected": messages("It is blue")},
            ("", "It is red", "It is blue"),
        ),
        (
            {"chosen": messages("hi", "a", "b", "yes"), "rejected": messages("hi", "a", "b", "no")},
            ("hi\n\na\n\nb", "yes", "no"),
        ),
        (
            {"prompt": messages("hi"), "chosen": messages("yes"), "rejected": messages("no")},
            ("hi", "yes", "no"),
        ),
        (
            {"prompt": "hi", "chosen": messages("hi", "yes"), "rejected": messages("hi", "no")},
            ("hi", "yes", "no"),
        ),
        (
            {"chosen": messages("hi", "yes"), "rejected": messages("hi", "yes")},
            ("hi", "yes", "yes"),
        ),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}],
                "chosen": messages("yes"),
                "rejected": "",
            },
            ("hi", "yes", ""),
        ),
    ],
)
def test_rows_of_all_kinds(row, expected, tmp_path):
    other = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(30)]
    found = pairs.read(write(tmp_path / "p.jsonl", [row, *other]))
    pair = next(pair for pair in found.train + found.test if pair.line == 1)
    assert pair[:3] == expected


@pytest.mark.parametrize("wrong", [3, [], ["a"], [{"role": "user"}], None])
def test_rows_without_text_are_named(wrong, tmp_path):
    row = {"prompt": "a", "chosen": "b", "rejected": wrong}
    with pytest.raises(ValueError, match=r"line 1: needs a text as 'rejected', or a list of mess"):
        pairs.read(write(tmp_path / "p.jsonl", [row]))


def test_empty_answers_are_kept_and_told(tmp_path):
    given = rows(count=100)
    for row in given[::2]:
        row["rejected"] = ""
    found = pairs.read(write(tmp_path / "p.jsonl", given))
    assert len(found.train) + len(found.test) == 100
    assert any("50 of 200 answers are empty" in note for note in found.notes)
    assert all(text.strip() for text in found.texts + found.held_out)
    vocabulary = WordVocabulary.fit(["a b"], min_count=1)
    batch, _ = pairs.encode([pairs.Pair("a", "b", "")], vocabulary, history=3, length=4)
    assert batch.tokens[1, 3] == DOCUMENT and batch.since[1].tolist() == [2, -1, -1, -1]


def test_one_prompt_is_split_by_pair(tmp_path):
    given = [{"prompt": "Why?", "chosen": f"since {i}", "rejected": "no"} for i in range(300)]
    for change in ({}, {"prompt": ""}):
        found = pairs.read(write(tmp_path / "p.jsonl", [row | change for row in given]))
        assert len(found.test) in range(15, 50) and len(found.train) + len(found.test) == 300
        assert not {p.chosen for p in found.train} & {p.chosen for p in found.test}
        assert "all 300 pairs have" in found.notes[0]
    with pytest.raises(ValueError, match="other prompts, or on other topics"):
        pairs.read(write(tmp_path / "p.jsonl", given[:1] * 9))  # nine times the same pair


@pytest.mark.parametrize("count", [2, 3, 8])
def test_few_groups_give_both_sides(count, tmp_path):
    for start in range(5):
        names = range(start, start + count)
        given = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in names for _ in "xy"]
        found = pairs.read(write(tmp_path / "p.jsonl", given))
        assert found.train and found.test
        assert not {p.prompt for p in found.train} & {p.prompt for p in found.test}
        topics = [
            {"question": f"{kind}?", "title": f"t{i}", "qtype": kind, "text": kind}
            for i in names
            for kind in ("cause", "cure")
        ]
        found = pairs.read(write(tmp_path / "q.jsonl", topics))
        assert found.train and found.test


@pytest.mark.slow
def test_pairs_that_are_alike_are_counted_and_named(base, tmp_path, capsys):
    options = ["--checkpoint", base, "--method", "reward", "--epochs", "1", "--length", "9"]
    late = write(tmp_path / "late.jsonl", rows(before=SAME))
    status, _, err = call(preference, capsys, late, *options[:-1], "8")
    assert status == 2 and "differ after --length 8 tokens only" in err and "raise --length" in err
    unknown = write(tmp_path / "unknown.jsonl", rows(ends=("zyx", "xyz")))
    status, _, err = call(preference, capsys, unknown, *options)
    assert status == 2 and "differ in unknown words only" in err
    mixed = rows()
    mixed[3] |= {"rejected": mixed[3]["chosen"]}
    mixed[5] |= {"chosen": "yes zyx", "rejected": "yes xyz"}
    given = write(tmp_path / "mixed.jsonl", mixed)
    status, out, err = call(preference, capsys, given, *options)
    assert status == 0, err
    found = json.loads(out.splitlines()[-1])
    assert found["train_pairs_alike"] + found["test_pairs_alike"] == 2
    assert "1 are the same text" in err and "1 differ in unknown words only" in err
    assert "lines 4, 6" in err and 0 <= found["unknown_share"] < 1


@pytest.mark.slow
def test_divergence_ends_tuning_and_saves_nothing(base, tmp_path, capsys):
    given = write(tmp_path / "p.jsonl", rows())
    target = tmp_path / "tuned"
    lm.save(lm.load(base), target)
    before = {p: p.read_bytes() for p in target.iterdir() if p.suffix != ".lock"}
    options = ["--checkpoint", base, "--method", "dpo", "--length", "4", "--lr", "1e30"]
    status, _, err = call(preference, capsys, given, *options, "--save", str(target))
    assert status == 2 and "lower" in err and ("NaN" in err or "nan" in err)
    assert {p: p.read_bytes() for p in before} == before


@pytest.mark.slow
def test_a_tuned_model_knows_what_it_learned_from(base, tmp_path, capsys):
    given = write(tmp_path / "p.jsonl", rows(count=24))
    target = str(tmp_path / "tuned")
    options = ["--checkpoint", base, "--method", "dpo", "--length", "4", "--epochs", "1"]
    status, _, err = call(preference, capsys, given, *options, "--save", target)
    assert status == 0, err
    model = lm.load(target)
    assert [source.name for source in model.record.pairs] == [given]
    assert model.record.test_sha256 == lm.load(base).record.test_sha256
    same = jax.tree.map(lambda a, b: bool((a == b).all()), model.params, lm.load(base).params)
    assert not jax.tree.all(same)
    status, _, err = call(eval_lm, capsys, target, "--test", given)
    assert status == 0 and "p.jsonl is a test text that the model was trained on" in err


@pytest.mark.parametrize("option", ["--save", "--save-base"])
def test_one_process_tunes_into_a_directory(option, tmp_path, capsys):
    """Row 9. It is refused before anything is read: there are no such pairs."""
    target, missing = str(tmp_path / "m"), str(tmp_path / "no.jsonl")
    with locked(target):
        status, _, err = call(preference, capsys, missing, option, target)
        assert status == 2 and f"in use by process {os.getpid()}" in err
    saved.save(target, kind="xmc", config={}, arrays={"w": np.ones(3)})
    status, _, err = call(preference, capsys, missing, option, target)
    assert status == 2 and "holds a model of kind 'xmc', which would be lost" in err
    assert saved.load(target, kind="xmc").arrays["w"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (train_lm, ["--rows", "18"], "--rows 18: must be 0 or at least 1024; did you mean 2^18?"),
        (train_lm, ["--rows", "500"], "--rows 500: must be 0 or at least 1024"),
        (train_lm, ["--max-seconds", "nan"], "--max-seconds nan: must be above 0"),
        (train_lm, ["--lr", "inf"], "--lr inf: must be finite"),
        (train_lm, ["--bpe-size", "600"], "--bpe-size: no effect with --vocabulary word"),
        (train_lm, ["--vocabulary", "bpe", "--min-count", "2"], "--min-count: no effect with"),
        (train_lm, ["--rows", "0", "--memory-lr", "1"], "--memory-lr: no effect with --rows 0"),
        (train_lm, ["--save-every", "9"], "--save-every: no effect without --checkpoint"),
        (eval_lm, ["m", "--tables", "4"], "--tables: no effect without --sparse"),
        (generate, ["m", "--beams", "2", "--seed", "1"], "--seed: no effect with --beams"),
        (generate, ["m", "--top-k", "1", "--seed", "4"], "--seed: no effect with --top-k 1"),
        (generate, ["m", "--temperature", "0", "--copies", "2"], "--copies: no effect with --temp"),
        (preference, ["x", "--rows", "18"], "did you mean 2^18? then --rows 262144"),
        (preference, ["x", "--max-seconds", "nan"], "--max-seconds nan: must be above 0"),
        (
            preference,
            ["x", "--checkpoint", "m", "--rows", "2048"],
            "--rows: no effect with",
        ),
        (preference, ["x", "--method", "reward", "--lr", "1"], "--lr: no effect with --method rew"),
        (preference, ["x", "--save", "m", "--save-base", "m"], "the base would be lost"),
    ],
)
def test_options_without_a_meaning_are_refused(module, options, message, capsys):
    status, _, err = call(module, capsys, *options)
    assert status == 2 and message in err


def test_patience_needs_text_to_watch(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("so and so. " * 200)
    options = ["--min-count", "1", "--patience", "3", "--rows", "1024"]
    status, _, err = call(train_lm, capsys, f"{tmp_path}/a.txt", *options)
    assert status == 2 and "--patience 3: no effect on" in err
