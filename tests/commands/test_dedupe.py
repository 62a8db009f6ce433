"""`sparse-jax dedupe`: every kind of file, what it writes and tells, and mistakes."""

from __future__ import annotations

import gzip
import io
import json
import sys

import pytest
from in_process import call

from sparse_jax.commands import dedupe, main
from sparse_jax.data import streams
from sparse_jax.data.kinds.base import Options

FOX = "the quick brown fox jumps over the lazy dog and runs home to its den by the old mill"
TEXTS = [FOX, "it rains", "!?", FOX.replace("quick", "swift"), "It rains!", "!?", "snow falls"]
KEPT = [0, 1, 2, 5, 6]
PAIRS = [(3, 0, 0.8421), (4, 1, 1.0)]


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(streams, "AT_ONCE", 3)


def file_of(folder, kind: str):
    """TEXTS as a file of a kind: (its path, the bytes of each row, those of the header)."""
    path = folder / f"given.{'txt' if kind == 'text' else kind}"
    if kind == "jsonl":
        rows = [json.dumps({"n": n, "text": text}) + "\n" for n, text in enumerate(TEXTS)]
        header = ""
    elif kind == "text":
        rows, header = [f"{text}\n" for text in TEXTS], ""
    else:
        sign = "," if kind == "csv" else "\t"
        rows = [f'{n}{sign}"{text}"\n' for n, text in enumerate(TEXTS)]
        header = f"n{sign}text\n"
    path.write_text(header + "".join(rows))
    return path, rows, header


@pytest.mark.parametrize("kind", ["text", "csv", "tsv", "jsonl"])
def test_rows_are_kept_as_they_stand(tmp_path, capsys, kind):
    path, rows, header = file_of(tmp_path, kind)
    expected = header + "".join(rows[n] for n in KEPT)
    out, pairs = tmp_path / "out", tmp_path / "pairs"
    status, _, err = call(dedupe, capsys, str(path), "--output", str(out), "--pairs", str(pairs))
    assert status == 0 and out.read_text() == expected
    assert "kept 5 of 7 texts: dropped 2 near-duplicates (28.6%), 1 of them with equal words" in err
    first = 2 if header else 1
    assert [tuple(json.loads(line).values()) for line in pairs.read_text().splitlines()] == [
        (f"{path}:{first + a}", f"{path}:{first + b}", alike) for a, b, alike in PAIRS
    ]
    # Packed, to standard output, and from standard input.
    packed = tmp_path / f"{path.name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert call(dedupe, capsys, str(packed), whole=True)[1] == expected
    status, _, _ = call(dedupe, capsys, str(packed), "--output", str(packed))
    assert status == 0 and gzip.decompress(packed.read_bytes()).decode() == expected


def test_standard_input(capsys, monkeypatch):
    given = "".join(f"{text}\n" for text in TEXTS).encode()
    stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(given)))  # type: ignore[arg-type]
    monkeypatch.setattr(sys, "stdin", stdin)
    status, out, _ = call(dedupe, capsys, "-", whole=True)
    assert status == 0 and out == "".join(f"{TEXTS[n]}\n" for n in KEPT)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_without_rows_stays_a_table(tmp_path, capsys, kind):
    path, out = tmp_path / f"a.{kind}", tmp_path / f"b.{kind}"
    if kind == "csv":
        path.write_text("id,text\n")
    else:
        arrow = pytest.importorskip("pyarrow")
        table = arrow.table({"text": arrow.array([], arrow.string())})
        pytest.importorskip("pyarrow.parquet").write_table(table, path)
    for given, result in ((path, out), (out, tmp_path / f"c.{kind}")):
        status, _, err = call(dedupe, capsys, str(given), "--output", str(result))
        assert status == 0 and "kept 0 of 0 texts" in err, err


def test_parquet(tmp_path, capsys):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"n": list(range(len(TEXTS))), "body": TEXTS})
    path, out = tmp_path / "a.parquet", tmp_path / "b.parquet"
    parquet.write_table(table, path, row_group_size=2)
    status, _, err = call(dedupe, capsys, str(path), "--text", "body", "--output", str(out))
    assert status == 0, err
    assert parquet.read_table(out).equals(table.take(KEPT))
    status, _, err = call(dedupe, capsys, str(path), "--text", "body")
    assert status == 2 and "--output is missing" in err
    path.write_bytes(path.read_bytes()[:-9])
    status, _, err = call(dedupe, capsys, str(path), "--text", "body", "--output", str(out))
    assert status == 2 and "no whole Parquet file" in err
    assert parquet.read_table(out).num_rows == 5, "a failed run replaced what was there"


def test_a_file_a_text(tmp_path, capsys):
    (tmp_path / "sub").mkdir()
    names = ["a.txt", "b.md", "sub/c.txt", "sub/d.txt.gz"]
    texts = [FOX, "it\nrains", FOX + ".", "snow\n\nfalls"]
    for name, text in zip(names, texts, strict=True):
        content = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("z") else content)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    pairs = tmp_path / "pairs.json"
    kept = [f"{tmp_path}/{name}\n" for name in (names[0], names[1], names[3])]
    status, out, _ = call(dedupe, capsys, str(tmp_path), "--pairs", str(pairs), whole=True)
    assert status == 0 and out == "".join(kept)
    dropped = {"dropped": f"{tmp_path}/{names[2]}", "like": f"{tmp_path}/a.txt", "similarity": 1.0}
    assert json.loads(pairs.read_text()) == dropped
    paths = [str(tmp_path / name) for name in names]
    assert call(dedupe, capsys, *paths, "--kind", "files", whole=True)[1] == "".join(kept)


def test_several_files_are_one_stream(tmp_path, capsys):
    first, second = tmp_path / "a.csv", tmp_path / "b.csv"
    first.write_text('id,title,body\n1,red,"an apple\non a tree"\n\n2,,car\n')
    second.write_text('id,title,body\r\n3,Red,an apple on a tree\r\n4,blue,"a ""sky"""')
    given = [str(first), str(second), "--text", "title", "--text", "body"]
    status, out, _ = call(dedupe, capsys, *given, whole=True)
    assert status == 0
    assert out == 'id,title,body\n1,red,"an apple\non a tree"\n2,,car\n4,blue,"a ""sky"""\n'
    second.write_text("id,body,title\n5,x,y\n")
    status, _, err = call(dedupe, capsys, *given)
    assert status == 2 and "columns = id,body,title: must be those of the first file" in err


def test_the_threshold_is_kept_to(tmp_path, capsys):
    path, rows, _ = file_of(tmp_path, "text")
    for threshold, kept in (
        ("0.84", KEPT),
        ("0.85", [0, 1, 2, 3, 5, 6]),
        ("1", [0, 1, 2, 3, 5, 6]),
    ):
        out = call(dedupe, capsys, str(path), "--threshold", threshold, whole=True)[1]
        assert out == "".join(rows[n] for n in kept)


@pytest.mark.parametrize(
    ("name", "content", "options", "told"),
    [
        ("a.txt", b"a\n", ["--text", "b"], "--text: no effect on files of kind text"),
        ("a.txt", b"a\n", ["--threshold", "0.1"], "--threshold 0.1: must be from 0.2 to 1"),
        ("a.txt", b"a\n", ["--threshold", "nan"], "must be from 0.2 to 1"),
        ("a.txt", b"a\n", ["--output", "x", "--pairs", "x"], "must be another file"),
        ("a.txt", b"a\n", ["--output", "x", "--pairs", "./x"], "must be another file"),
        ("a.txt", b"a\n", ["--output", "x", "--pairs", "a.txt"], "must be another file"),
        ("a.gz", gzip.compress(b"a\n", mtime=0)[:7], [], "the gzip stream is damaged"),
        ("a.txt", b"a\n\0b\n", [], "a.txt: line 2: a NUL character"),
        ("a.txt", b"\xff\xfea\0\n\0", [], "a.txt: line 1: encoding = UTF-16"),
        (
            "a.txt.gz",
            gzip.compress(b"a b c\n" * 99, mtime=0)[:-9],
            [],
            "the gzip stream is damaged",
        ),
        ("a.txt", b"a\n", ["-"], "standard input must be the only one"),
        ("a.jsonl", b'{"text": "a"}\n{"b": 1}\n', [], "a.jsonl: line 2: columns = b"),
        ("a.jsonl", b'{"text": "a"}\n{"text": [1]}\n', [], "a.jsonl: line 2: a text is [1]"),
        ("a.jsonl", b'{"text": "a"}\n\n{"text\n', [], "a.jsonl: line 3: is no JSON"),
        ("a.jsonl", b"[]\n", [], "a.jsonl: line 1: must be a JSON object"),
        ("a.jsonl", b'{"text": "\xe9"}\n', [], "a.jsonl: line 1: byte 10 is no UTF-8"),
        ("a.csv", b"id,text\n1,a\n2\n", [], "a.csv: line 3: has 1 cells: must have 2"),
        ("a.csv", b'id,text\n1,"a\n2,b\n', [], "a.csv: line 2: unexpected end of data"),
        ("a.csv", b"id,words\n1,a\n", [], "line 1: columns = id, words: must have 'text'"),
        ("a.csv", b"", [], "a.csv: line 1: the file is empty"),
        ("a.csv", b"\n \n", [], "a.csv: line 1: the file is empty"),
        ("a", b"__label__a red\n__label__b blue\n", [], "a: is of kind fasttext: must be one of"),
        ("a.txt", b"a\n", ["missing.txt"], "missing.txt"),
    ],
)
def test_mistakes(tmp_path, capsys, monkeypatch, name, content, options, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_bytes(content)
    given = [name, *options] if "-" in options or "--output" in options else options
    if given is options:
        given = [name, *options, "--output", "out"]
    status, _, err = call(dedupe, capsys, *given)
    assert status == 2 and told in err
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


def test_kinds_of_files(tmp_path, capsys):
    text, table = tmp_path / "a.txt", tmp_path / "b.jsonl"
    text.write_text("a\n")
    table.write_text('{"text": "a"}\n')
    status, _, err = call(dedupe, capsys, str(text), str(table))
    assert status == 2 and "of kind text" in err and "of kind jsonl: must be of one kind" in err
    (tmp_path / "empty").mkdir()
    status, _, err = call(dedupe, capsys, str(tmp_path / "empty"))
    assert status == 2 and "must hold text files" in err
    status, _, err = call(dedupe, capsys, "-", "--kind", "files")
    assert status == 2 and "can't be read from standard input" in err
    unnamed = tmp_path / "rows"
    unnamed.write_text('{"text": "a"}\n')
    assert streams.kind_of(str(unnamed), Options()) == "jsonl"
    unnamed.write_text("just words\nand more\n")
    assert streams.kind_of(str(unnamed), Options()) == "text"


def test_an_interrupt_leaves_nothing(tmp_path, capsys, monkeypatch):
    path, _, _ = file_of(tmp_path, "text")
    out = tmp_path / "out"
    out.write_text("before\n")

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(streams.Writer, "write", interrupted)
    status, _, err = call(
        dedupe, capsys, str(path), "--output", str(out), "--pairs", str(tmp_path / "pairs")
    )
    assert status == 130 and "interrupted" in err and out.read_text() == "before\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["given.txt", "out"]


def test_bytes_that_are_no_utf8_stay(tmp_path, capsys):
    path, out = tmp_path / "a.txt", tmp_path / "b.txt"
    path.write_bytes(b"caf\xe9 noir\ncaf\xe9 noir!\nthe\r\n")
    assert call(dedupe, capsys, str(path), "--output", str(out))[0] == 0
    assert out.read_bytes() == b"caf\xe9 noir\nthe\r\n"


def test_it_is_a_command(tmp_path, capsys):
    path, _, _ = file_of(tmp_path, "text")
    assert call(main, capsys, "dedupe", str(path), "--output", str(tmp_path / "b"))[0] == 0
