"""Texts of a file some at a time: those that `data.read` reads, and the bytes they stand in."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparse_jax import data
from sparse_jax.data import reading, streams
from sparse_jax.data.kinds.base import Options

# Any character but half ones and NUL; those that part cells, often.
CELLS = st.text(
    st.one_of(st.sampled_from(',;\t"\r\n \u2028é'), st.characters(exclude_categories=["Cs"])),
    max_size=8,
).map(lambda cell: cell.replace("\0", ""))


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "parquet"])
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(CELLS, min_size=1, max_size=9), packed=st.booleans(), size=st.integers(1, 4))
def test_as_data_reads_them(kind, texts, packed, size, tmp_path_factory):
    if kind == "parquet":
        pytest.importorskip("pyarrow")
        packed = False
    path = str(tmp_path_factory.mktemp("a") / f"a.{kind}") + ".gz" * packed
    data.write(data.read({"text": texts, "labels": ["x"] * len(texts)}), path, kind)
    expected = list(reading.load(path, kind, Options()).texts or ())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "AT_ONCE", size)
        parts = list(streams.read(path, streams.kind_of(path, Options()), Options()))
    assert [text for part in parts for text in part.texts] == expected == texts
    assert all(len(part.texts) <= size for part in parts)
    assert len({part.header for part in parts}) == 1
    if kind != "parquet":
        with open(path, "rb") as file:
            content = gzip.decompress(file.read()) if packed else file.read()
        rows = b"".join(row for part in parts for row in part.rows)
        assert parts[0].header + rows == content
        begins = [line for part in parts for line in part.lines]
        assert begins == sorted(set(begins)) and begins[0] == (1 if kind == "jsonl" else 2)
