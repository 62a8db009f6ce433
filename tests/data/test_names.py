"""Names of ids, and the encodings of text files."""

from __future__ import annotations

import gzip
import re

import pytest

from sparse_jax.data import read_jsonl, read_names
from sparse_jax.data.encoding import decode, without_mark

BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"red\ngreen\n", ["red", "green"]),
        (b"red\ngreen", ["red", "green"]),
        (b"red\r\ngreen\r\n", ["red", "green"]),
        (BOM + b"red\n", ["red"]),
        ("rot\ngrün\n".encode("utf-16"), ["rot", "grün"]),
        ("\ufeffrot\ngrün\n".encode("utf-16-be"), ["rot", "grün"]),
        ("rot\ngrün\n".encode("utf-32"), ["rot", "grün"]),
        ("दिन\n日本\n".encode(), ["दिन", "日本"]),
        # Only a line feed ends a line: the others stand within names.
        ("a\u2028b\nc\x0bd\ne\x85f\ng\rh\n".encode(), ["a\u2028b", "c\x0bd", "e\x85f", "g\rh"]),
        (b" New York \n\n-\n", [" New York ", "", "-"]),
        (b"", []),
        (BOM, []),
        (b"\n", [""]),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_names(tmp_path, content, names, compressed):
    path = tmp_path / "names"  # gzip is recognised by content
    path.write_bytes(gzip.compress(content) if compressed else content)
    assert read_names(path) == tuple(names)
    assert read_names(path, count=len(names)) == tuple(names)


def test_count_of_names(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("red\ngreen\n\n\n")
    assert read_names(path) == ("red", "green", "", "")
    assert read_names(path, count=3) == ("red", "green", "")
    assert read_names(path, count=2) == ("red", "green")
    for count in (0, 1, 5):
        with pytest.raises(
            ValueError, match=f"labels.txt: names = .*: must be {count}, one a line"
        ):
            read_names(path, count=count)


def test_bad_names_files(tmp_path):
    path = tmp_path / "names.txt"
    path.write_bytes(b"red\ngr\xfcn\n")
    with pytest.raises(
        ValueError, match=r"names.txt: line 2: byte 6 of the file is no UTF-8; conv"
    ):
        read_names(path)
    path.write_bytes("red".encode("utf-16")[:-1])
    with pytest.raises(ValueError, match="is no UTF-16"):
        read_names(path)
    path.write_bytes(gzip.compress(b"red\n" * 99)[:-9])
    with pytest.raises(ValueError, match=r"names.txt: line \d+: the gzip stream is damaged"):
        read_names(path)
    with pytest.raises(FileNotFoundError):
        read_names(tmp_path / "none.txt")


def test_marks():
    assert without_mark(BOM + b"1 2" + BOM) == b"1 2" + BOM
    assert without_mark(b"") == b"" and decode(b"") == ""
    assert decode(BOM + "é".encode()) == "é"
    assert decode("\ufeffé".encode("utf-16-le")) == "é"
    for encoding in ("utf-16", "utf-32"):
        with pytest.raises(ValueError, match=f"encoding = {encoding.upper()}: must be UTF-8"):
            without_mark("1".encode(encoding))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_jsonl(tmp_path, name):
    path = tmp_path / name

    def write(content):
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)

    write(BOM + b'{"id": "a", "text": "red apples"}\n\n{"id": "b"}\n')
    assert list(read_jsonl(path)) == [(1, {"id": "a", "text": "red apples"}), (3, {"id": "b"})]
    write(BOM + b"\n{}\n")
    assert list(read_jsonl(path)) == [(2, {})]
    write('{"id": "a"}\n'.encode("utf-16"))
    message = re.escape(f"{path}, line 1: encoding = UTF-16: must be UTF-8; convert")
    with pytest.raises(ValueError, match=message):
        list(read_jsonl(path))
    for bad, part in [
        (b"{}\n{", "line 2: is no JSON"),
        (b'{}\n{"a": 1' + b"0" * 5000 + b"}\n", f"{path}, line 2: is no JSON: Exceeds the limit"),
        (b"{}\n[]\n", "line 2: must be an object, got list"),
        (b'{}\n{"a": "\xff"}\n', "line 2: byte 7 is no UTF-8"),
        (b"{}\n" + BOM + b"{}\n", "line 2: is no JSON"),
    ]:
        write(bad)
        with pytest.raises(ValueError, match=re.escape(part)):
            list(read_jsonl(path))
