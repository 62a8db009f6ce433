"""Small files of every kind of points, and what they hold."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp

from sparse_jax import data

KINDS = {kind.name: kind for kind in data.kinds()}
# What a test of a kind, or of a library's tables, can't do without.
NEEDS = {"parquet": "pyarrow", "pandas": "pandas", "polars": "polars", "arrow": "pyarrow"}
TEXTS = ["red apple", "a fast car, red", "Ümläute “quoted”", "nothing", "red red"]
LABELS = [["food", "red"], ["thing"], [], ["food"], ["red", "thing"]]
IDS = [[0, 1], [2], [], [0], [1, 2]]  # in the order of sorted names


def need(what: str) -> Any:
    """The library of a kind, or of tables in memory; skips the test where it is missing."""
    return pytest.importorskip(NEEDS[what])


XMC = b"3 6 4\n1,3 0:1 5:2.5\n 2:1\n0\n"
X, Y = b"3 6\n0:1 5:2.5\n2:1\n\n", b"3 4\n1:1 3:1\n\n0:1\n"
RAW = (
    b'{"uid": "a", "title": "red", "content": "apple", "target_ind": [0, 1], "target_rel": [1, 1]}'
    b'\n{"uid": "b", "content": "a fast car, red", "target_ind": [2]}\n'
)
FASTTEXT = b"__label__food __label__red  red apple\n\n__label__thing a fast car, red\n"
JSONL = (
    b'{"text": "red apple", "labels": ["food", "red"]}\n'
    b'{"text": "a fast car, red", "label": 1, "labels": "thing"}\n'
)
TSV = 'text\tlabels\nred apple\tfood|red\n"a fast car, red"\tthing\n'


def npz(matrix: Any) -> bytes:
    """A matrix as `scipy.sparse.save_npz` writes it."""
    file = io.BytesIO()
    sp.save_npz(file, matrix)
    return file.getvalue()


def parquet(columns: dict[str, Any]) -> bytes:
    """Columns as a Parquet file."""
    pyarrow = need("parquet")
    writer = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    writer.write_table(pyarrow.table(columns), file)
    return file.getvalue()


# What a file of each kind may look like: (contents, options).
FILES = {
    "xmc": ([XMC], {}),
    "xy": ([X, Y], {}),
    "raw": ([RAW], {}),
    "svmlight": ([b"1,3 0:1 5:2.5\n2:1 # a note\n\n0\n"], {}),
    "npz": (
        [
            npz(sp.csr_matrix(np.array([[1, 0, 0, 0, 0, 2.5], [0, 0, 1, 0, 0, 0], [0] * 6]))),
            npz(sp.csc_matrix(np.array([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]))),
        ],
        {},
    ),
    "fasttext": ([FASTTEXT], {}),
    "libmultilabel": ([b"7\tfood red\tred apple\n8\tthing\ta fast car, red\n"], {}),
    "csv": ([b'text,labels\nred apple,food;red\n"a fast car, red",thing\n'], {"separator": ";"}),
    "tsv": ([TSV.encode()], {"separator": "|"}),
    "jsonl": ([JSONL], {}),
    "parquet": (None, {}),
    "text": ([b"red apple\na fast car, red\n"], {}),
}


def write_files(folder: Path, contents: list[bytes]) -> Path | tuple[Path, ...]:
    """Files whose names tell nothing: a path, or two."""
    paths = [folder / f"points{i}" for i in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    return paths[0] if len(paths) == 1 else tuple(paths)


def contents_of(kind: str) -> tuple[list[bytes], dict[str, Any]]:
    """(contents of files of a kind, options to read them)."""
    contents, options = FILES[kind]
    return contents if contents is not None else [
        parquet({"text": TEXTS[:2], "labels": LABELS[:2]})
    ], options
