"""Documents on a bad day: damaged files, duplicates, and folders that change."""

from __future__ import annotations

import random

import pytest
from document_files import CSV, NOTES, PAGE, TREC, pdf, word

from sparse_jax.search import documents

pytest.importorskip("docx")
pytest.importorskip("bs4")
pytest.importorskip("markdown_it")
pytest.importorskip("pypdf")


def damage(rng: random.Random, content: bytes) -> bytes:
    """A file as disks, editors and other programs leave it."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(data) or 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                odd = [
                    b'"',
                    b"\t",
                    b",",
                    b"\n",
                    b"<",
                    b"{",
                    b"\xff\xfe",
                    b"\0",
                    b"\\ud800",
                    b"&#55296;",
                ]
                data[at:at] = rng.choice(odd)
            case 2:
                del data[at : at + rng.randint(1, 30)]
            case 3:
                del data[at:]
    return bytes(data)


def test_damaged_files_are_read_or_refused_by_name(tmp_path):
    rng = random.Random(7)
    files = {
        "a.pdf": pdf("Boats float", "Ships sink", title="On boats"),
        "a.docx": word(),
        "a.html": PAGE.encode(),
        "a.md": NOTES.encode(),
        "a.csv": CSV.encode(),
        "a.tsv": b"id\ttext\n1\tred\n2\tcars\n",
        "a.jsonl": b'{"id": 1, "text": "a", "metadata": {"a": {}}}\n{"id": "b", "text": null}\n',
        "a.json": b'[{"id": 1, "text": "a"}]',
        "a": TREC.encode(),
        "collection.tsv": b"0\tred\n1\tcars\n",
    }
    outcomes = set()
    for _ in range(250):
        name, content = rng.choice(list(files.items()))
        path = tmp_path / name
        path.write_bytes(damage(rng, content))
        try:
            outcomes.add(bool(documents.read(path, rng.choice([None, *documents.KINDS])).documents))
        except ValueError as error:
            outcomes.add("refused")
            assert str(tmp_path) in str(error)
        path.unlink()
    assert outcomes == {True, "refused"}
