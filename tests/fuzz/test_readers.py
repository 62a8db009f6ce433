"""Every reader on mutated files: points that are whole, or an error that names the file.

Never another exception; the same with the C++ kernels and in pure Python; and what is read is, once
written and read again, the same.
"""

from __future__ import annotations

import dataclasses
import gzip
import random
import warnings
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz, mutate, seeds
from hypothesis import given
from hypothesis import strategies as st
from small_points import points_of

from sparse_jax import data, search
from sparse_jax.data.plain import read as read_plain
from sparse_jax.lm.preference import pairs
from sparse_jax.ops import ffi, xmc_parser
from sparse_jax.search import documents

# What files begin as, by the kind that is told to the reader.
FILES = {
    "xmc": ["3 9 4\n1,3 0:1 7:2.5\n 8:1e3 0:-.5\n\n", "2 5 3\r\n0\t1:1\r\n2 4:5 0:1e-3\r\n"],
    "svmlight": ["1 1:0.5 3:2 # note\n0,2 2:1\n-1 qid:3 1:1\n", "+1 5:1\n2 1:.5 2:1e2\n"],
    "fasttext": ["__label__food red apple\n__label__a __label__b fast car\n", "no label here\n"],
    "text": ["red apple\n\nfast, car!\n", "हिन्दी किताब\ncafé\n"],
    "csv": ['text,labels\n"red, ""apple""",food\nfast car,"a;b"\n', "id,text\n1,x\n2,y\n"],
    "tsv": ["text\tlabels\nred apple\tfood\nfast car\tthing\n"],
    "jsonl": [
        '{"text": "red", "labels": ["food", "b"]}\n{"text": "fast car", "labels": []}\n',
        '{"text": "\\u0915", "label": 3}\n',
    ],
}
PIECES = [
    *(x.encode() for x in ["0", "-1", "9" * 30, "1e999", "nan", ",", ":", " ", "\t", "\n", "\r\n"]),
    *(x.encode() for x in ['"', "'", "\\", "{", "}", "[", "]", "null", "true", "#", "__label__"]),
    *(
        x.encode()
        for x in ["\ufeff", "é", "e\u0301", "漢", "\u2028", "\x85", "🇩🇪", "text", "labels"]
    ),
    *(b"\xff", b"\xc3", b"\0", b"\x1a", b"\x1f\x8b\x08\0", b"\xff\xfe", b"\\ud800", b"\n\n\n", b""),
]


def check_points(points: data.XmcData) -> None:
    """Fails unless points are as `XmcData` promises."""
    data.XmcData(*(getattr(points, field.name) for field in dataclasses.fields(points)))
    assert np.isfinite(points.feature_values).all()


def same(a: data.Table, b: data.Table) -> None:
    """Equal points, names and texts."""
    for field in dataclasses.fields(a.points):
        one, other = getattr(a.points, field.name), getattr(b.points, field.name)
        np.testing.assert_array_equal(one, other)
    assert a.label_names == b.label_names and a.feature_names == b.feature_names


def read(path: Any, kind: str | None, like: Any = None) -> data.Table | str:
    """What is read, or the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # notes on what was left out
        try:
            return data.read(path, kind, like=like)
        except ValueError as error:
            assert str(path) in str(error), f"the error doesn't name the file: {error!r}"
            assert "\n" not in str(error) and len(str(error)) < 600
            return str(error)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("told", [True, False])
def test_points_of_mutated_files(kind, told, tmp_path, monkeypatch):
    accepted = 0
    for seed in seeds(120):
        rng = random.Random(seed)
        starts = [text.encode() for text in FILES[kind]]
        content = mutate(rng.choice(starts), rng, PIECES, starts)
        path = tmp_path / f"x.{rng.choice([kind, 'txt'])}"
        path.write_bytes(gzip.compress(content) if rng.random() < 0.1 else content)
        found = read(path, kind if told else None)
        monkeypatch.setattr(ffi, "AVAILABLE", False)
        pure = read(path, kind if told else None)
        monkeypatch.undo()
        if isinstance(found, str):
            assert found == pure, content
            continue
        accepted += 1
        if not found.points.num_points:
            continue
        check_points(found.points)
        assert not isinstance(pure, str), (content, pure)
        same(found, pure)
        if not told or kind in ("csv", "tsv", "jsonl"):
            continue  # a kind of its own, or columns that are not kept
        # What was read can be written, and read again, unless the writer says what can't.
        again = tmp_path / "again.txt"
        try:
            data.write(found, again, kind)
        except ValueError:
            continue
        back = read(again, kind, like=found)
        assert not isinstance(back, str), (content, again.read_bytes(), back)
        same(found, back)
    assert accepted > 5


def test_an_error_is_one_short_line(tmp_path):
    """What a quote that isn't closed makes of a header: half of the file."""
    (tmp_path / "x.csv").write_text('"red\n' + "and so on\n" * 500 + '",b\n1,2\n')
    assert "columns = red and so on" in read(tmp_path / "x.csv", "csv")


def test_both_parsers_of_points_say_the_same():
    starts = [text.encode() for text in FILES["xmc"]]
    for seed in seeds(3000):
        rng = random.Random(seed)
        content = mutate(rng.choice(starts), rng, PIECES, starts)
        outcomes = []
        for parse in (xmc_parser.parse_xmc, xmc_parser.parse_python):
            try:
                arrays = parse(content)
                outcomes.append([x.tobytes() if hasattr(x, "tobytes") else x for x in arrays])
            except ValueError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1], content


ROWS = '{"id": "a", "text": "red", "metadata": {"n": 1, "b": null}}\n{"_id": 3, "text": ""}\n'
PAIRS = "".join(f'{{"prompt": "p{i}", "chosen": "a", "rejected": "b"}}\n' for i in range(25))
OTHERS = {
    "json lines": (ROWS, lambda path: list(search.read_jsonl(path))),
    "names": ("rot\ngrün\n\nblau\n", data.read_names),
    "pairs": (PAIRS, pairs.read),
    "text": ("rote Äpfel\n\n\fund\n", read_plain),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_readers_of_mutated_files(name, tmp_path):
    start, act = OTHERS[name]
    accepted, path = 0, tmp_path / "x"
    for seed in seeds(300):
        rng = random.Random(seed)
        content = mutate(start.encode(), rng, PIECES)
        path.write_bytes(content)
        try:
            act(path)
            accepted += 1
        except ValueError as error:
            assert str(path) in str(error), (content, error)
    assert accepted > 20


# What documents begin as, by the name of their file.
DOCUMENTS = {
    "x.jsonl": ROWS,
    "x.json": '[{"id": "a", "text": "red"}, {"id": "b", "text": "x", "title": "y"}]',
    "x.csv": 'id,title,text\n1,"a, b",red apple\n2,,"fast\ncar"\n',
    "x.tsv": "id\ttext\ttitle\n1\ta\tb\n2\tc\td\n",
    "collection.tsv": "0\tred apples grow\n1\tfast cars\n2\tblue boats\n",
    "x.trec": "<DOC>\n<DOCNO> a-1 </DOCNO>\n<TEXT>\nred &amp; <b>x\n</TEXT>\n</DOC>\n",
    "x.md": "# Red\n\napples *grow*\n\n## Blue\n\n```\n# no heading\n```\nboats\n",
    "x.html": "<html><title>Red</title><p>apples &lt; pears<script>x</script><h2>Blue</h2>boats",
    "x.txt": "Red apples grow.\n\nBlue boats float.\n",
}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_of_mutated_files(name, tmp_path):
    accepted, path = 0, tmp_path / name
    marks = [
        b"<DOC>",
        b"</DOC>",
        b"<DOCNO>",
        b"</TEXT>",
        b"<!--",
        b"&#x110000;",
        b"&#",
        b"# ",
        b"<p",
    ]
    for seed in seeds(100):
        rng = random.Random(seed)
        content = mutate(DOCUMENTS[name].encode(), rng, [*PIECES, *marks])
        path.write_bytes(content)
        try:
            found = documents.read(path)
        except ValueError as error:
            assert str(path) in str(error), (content, error)
            continue
        accepted += 1
        assert found.documents and all(isinstance(d, search.Document) for d in found.documents)
        assert all(isinstance(line, str) for line in found.report())
    assert accepted > 10


def test_a_gzip_file_damaged_anywhere_is_named_or_right(tmp_path):
    content = b"60 9 4\n" + b"1,3 0:1 7:2.5\n" * 60
    packed, path = gzip.compress(content, mtime=0), tmp_path / "x.gz"
    for seed in seeds(400):
        rng, damaged = random.Random(seed), bytearray(packed)
        if rng.random() < 0.5:
            del damaged[rng.randrange(2, len(damaged)) :]
        else:
            damaged[rng.randrange(2, len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(bytes(damaged))
        try:
            points = data.read_xmc(path)
        except ValueError as error:
            assert str(path) in str(error)
        else:
            assert points.num_points == 60  # what was hit is the time of writing, or such


ROW = st.tuples(
    st.sets(st.integers(0, 5), max_size=4),
    st.dictionaries(st.integers(0, 8), st.floats(-(2.0**90), 2.0**90, width=32), max_size=5),
)


@fuzz(60)
@given(st.lists(ROW, min_size=1, max_size=12), st.integers(0, 12))
def test_a_file_split_anywhere_is_the_whole(tmp_path_factory, rows, at):
    folder = tmp_path_factory.mktemp("split")
    whole = points_of(rows, 9, 6)
    parts = [whole.take(slice(None, at)), whole.take(slice(at, None))]
    read_back = []
    for number, part in enumerate(parts):
        data.write_xmc(folder / f"{number}.txt", part)
        read_back.append(data.read_xmc(folder / f"{number}.txt"))
    joined = data.concatenate(*read_back)
    for field in dataclasses.fields(whole):
        np.testing.assert_array_equal(getattr(joined, field.name), getattr(whole, field.name))
    order = np.random.default_rng(len(rows)).permutation(whole.num_points)
    shuffled = data.concatenate(*(whole.take([row]) for row in order))
    np.testing.assert_array_equal(shuffled.take(np.argsort(order)).label_ids, whole.label_ids)


@fuzz(60)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=8), st.integers(0, 8))
def test_texts_split_anywhere_have_the_same_words(texts, at):
    texts = [*texts, "red apples"]
    vocabulary = data.Vocabulary.fit(texts, min_count=1)
    whole = vocabulary.transform(texts)
    parts = data.concatenate(vocabulary.transform(texts[:at]), vocabulary.transform(texts[at:]))
    for name in ("feature_offsets", "feature_ids", "feature_values"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))
    assert data.Vocabulary.fit(texts[::-1], min_count=1).words == vocabulary.words
