"""What the search index promises about the disk, and about input that makes no sense."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_index import same, sample

from sparse_jax import search
from sparse_jax.search import journal, snapshot
from sparse_jax.search.evaluation import read_dataset
from sparse_jax.search.journal import Journal, read_journal

pytestmark = pytest.mark.usefixtures("lean_compiles")

ROOT = Path(__file__).resolve().parents[2]


def log_of(place: Path) -> Path:
    return place / json.loads((place / "manifest.json").read_text())["log"]


def changes(index: search.Index) -> None:
    """One of each."""
    index.insert([search.Document("new", "hoverboards for ostriches", "A titlé", {"n": 1})])
    index.upvote("my favourite thing", "libplank-doc")
    index.associate("zorblax", "dock library plank")
    index.delete("libddccontrol-dev")
    index.upvote("wrong", "new")
    index.undo()
    index.insert([search.Document(f"n{i}", f"thing number {i}") for i in range(12)])


# ----------------------------------------------------------------------------------------- the log


@pytest.mark.slow
def test_a_loaded_index_equals_the_one_that_logged(index, tmp_path):
    changes(index)
    index.close()
    with search.load(tmp_path / "i") as again:
        same(index, again)
        again.save()
        assert log_of(tmp_path / "i").stat().st_size == 0
        with search.load(tmp_path / "i", read_only=True) as third:
            same(again, third)
    assert sorted(p.name.partition("-")[0] for p in (tmp_path / "i").iterdir()) == [
        "lock",
        "log",
        "manifest.json",
        "snapshot",
    ]


def test_a_log_cut_anywhere_loses_the_last_record_alone(tmp_path):
    path = tmp_path / "log"
    log = Journal(path)
    records = [{"n": 1, "text": "é\n"}, {"n": 2}, {"n": 3, "text": "x" * 50}]
    ends = [0]
    for record in records:
        log.append(record)
        ends.append(path.stat().st_size)
    log.close()
    data = path.read_bytes()
    for cut in range(len(data) + 1):
        path.write_bytes(data[:cut])
        whole = sum(end <= cut for end in ends) - 1
        assert read_journal(path) == (records[:whole], ends[whole])
    # Zeros where the last write should be, as some file systems leave them.
    path.write_bytes(data[: ends[2]] + bytes(len(data) - ends[2]))
    assert read_journal(path)[0] == records[:2]
    log = Journal(path)
    log.append({"n": 4})
    log.close()
    assert read_journal(path)[0] == [*records[:2], {"n": 4}]


def test_a_log_damaged_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "log"
    log = Journal(path)
    for n in range(3):
        log.append({"n": n})
    log.close()
    data = bytearray(path.read_bytes())
    data[12] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged"):
        read_journal(path)


def test_a_write_that_fails_changes_nothing(index, tmp_path, monkeypatch):
    before = log_of(tmp_path / "i").read_bytes()
    results = index.search("python library")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        index.insert([search.Document("new", "hoverboards")])
    monkeypatch.undo()
    assert log_of(tmp_path / "i").read_bytes() == before
    assert index.search("python library") == results and len(index) == len(sample())
    index.insert([search.Document("new", "hoverboards")])
    index.close()
    with search.load(tmp_path / "i") as again:
        assert again.search("hoverboards", k=1)[0].id == "new"


CHILD = """
import hashlib, sys
from sparse_jax import search
def about(n): return hashlib.md5(str(n).encode()).hexdigest()
index = search.load(sys.argv[1])
print("open", flush=True)
for n in range(1000):
    match n % 5:
        case 0: index.insert([search.Document(f"k{n}", f"killed thing number {n} " * 20)])
        case 1: index.upvote(about(n), f"k{n - 1}")
        case 2: index.associate(about(n), f"killed thing number {n - 2}")
        case 3: index.save()
        case 4: index.delete(f"k{n - 4}") if n % 10 == 9 else None
    print(n, flush=True)
"""


def about(n: int) -> str:
    return hashlib.md5(str(n).encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("after", [3, 8, 12])
def test_kill_9_loses_nothing_acknowledged(saved, tmp_path, after):
    place = tmp_path / "i"
    with search.load(saved, read_only=True) as found:
        found.save(place)
    command = [sys.executable, "-c", CHILD, str(place)]
    acknowledged = -1
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if line.strip() != "open":
                acknowledged = int(line)
            if acknowledged == after:
                child.send_signal(signal.SIGKILL)
    # Lines printed before the signal came were read, too: they count as acknowledged.
    assert child.returncode == -signal.SIGKILL and acknowledged >= after
    with search.load(place) as again:
        for n in range(0, acknowledged + 1, 5):
            gone = n % 10 == 5
            if gone and n + 4 <= acknowledged:
                with pytest.raises(KeyError):
                    again.get(f"k{n}")
            elif not gone:
                assert again.get(f"k{n}").text.startswith(f"killed thing number {n}")
                if n + 1 <= acknowledged:
                    assert again.search(about(n + 1), k=1)[0].id == f"k{n}"
        again.insert([search.Document("after", "and it goes on")])


@pytest.mark.parametrize("stage", ["documents.jsonl", "arrays", "manifest.json"])
def test_a_save_that_dies_leaves_the_old_index(index, tmp_path, monkeypatch, stage):
    changes(index)
    copy = tmp_path / "copy"

    def die(*_args, **_more):
        shutil.copytree(tmp_path / "i", copy)
        raise SystemExit

    if stage == "manifest.json":
        monkeypatch.setattr(snapshot, "write_atomically", die)
    elif stage == "arrays":
        monkeypatch.setattr(np, "save", die)
    else:
        monkeypatch.setattr(snapshot, "_write", die)
    with pytest.raises(SystemExit):
        index.save()
    monkeypatch.undo()
    with search.load(copy) as again:
        same(index, again)
    assert len(list(copy.glob("snapshot-*"))) == 1


def test_one_writer_many_readers(index, tmp_path):
    with pytest.raises(search.LockError, match=f"by process {os.getpid()}: .*read_only"):
        search.load(tmp_path / "i")
    with search.load(tmp_path / "i", read_only=True) as reader:
        assert reader.search("plank", k=1)
        with pytest.raises(ValueError, match="read only"):
            reader.delete("libplank-doc")
        with pytest.raises(ValueError, match="read_only"):
            reader.save()
    index.close()
    search.load(tmp_path / "i").close()


def test_without_locks_an_index_is_read_only(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(journal, "fcntl", None)
    with pytest.raises(search.LockError, match=r"no fcntl.*read_only=True"):
        search.load(saved)
    with search.load(saved, read_only=True) as index:
        assert index.search("plank", k=1)
        with pytest.raises(search.LockError, match="no fcntl"):
            index.save(tmp_path / "copy")
        assert index.search("plank", k=1)
    assert not (tmp_path / "copy" / "manifest.json").exists()


def test_the_journal_can_be_imported_without_fcntl():
    code = "import sys; sys.modules['fcntl'] = None; from sparse_jax.search import journal"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_no_index_is_refused(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no index"):
        search.load(tmp_path)
    place = tmp_path / "i"

    def fresh() -> Path:
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(saved, place)
        return place / json.loads((place / "manifest.json").read_text())["snapshot"]

    fresh()
    (place / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        search.load(place)
    fresh()
    (place / "manifest.json").write_text('{"format": 99, "snapshot": "s", "log": "l"}')
    with pytest.raises(ValueError, match="format 99"):
        search.load(place)
    fresh()
    (place / "manifest.json").write_text('{"format": 3, "snapshot": "../i", "log": "l"}')
    with pytest.raises(ValueError, match="siblings"):
        search.load(place)
    folder = fresh()
    place_of_rows = folder / "network.output.npy"
    place_of_rows.write_bytes(place_of_rows.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        search.load(place)
    # A failed load leaves no lock behind.
    fresh()
    search.load(place).close()


def test_nothing_is_unpickled(saved, tmp_path):
    place = tmp_path / "i"
    shutil.copytree(saved, place)
    folder = next(place.glob("snapshot-*"))

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    np.save(folder / "deep_idf.values.npy", np.array([Bomb()], object))
    with pytest.raises(ValueError, match="damaged"):
        search.load(place)
    assert not (tmp_path / "exploded").exists()


# ------------------------------------------------------------------------------ senseless input


@pytest.mark.parametrize("query", ["", "   ", "?!…", "a" * 10_000_000, "\ud800 half", 7, None])
def test_senseless_queries_change_nothing(index, tmp_path, query):
    before = log_of(tmp_path / "i").read_bytes()
    for act in (
        lambda: index.search(query),
        lambda: index.search_batch(["fine", query]),
        lambda: index.explain(query, "libplank-doc"),
        lambda: index.upvote(query, "libplank-doc"),
        lambda: index.associate(query, "fine"),
        lambda: index.associate("fine", query),
        lambda: index.learn_pairs([("fine", "libplank-doc"), (query, "libplank-doc")]),
    ):
        with pytest.raises((ValueError, TypeError), match=r"query|source|target"):
            act()
    assert log_of(tmp_path / "i").read_bytes() == before


def test_unknown_ids_change_nothing(index, tmp_path):
    before = log_of(tmp_path / "i").read_bytes()
    for act in (
        lambda: index.get("nobody"),
        lambda: index.delete("nobody"),
        lambda: index.upvote("fine", "nobody"),
        lambda: index.explain("fine", "nobody"),
        lambda: index.learn_pairs([("fine", "libplank-doc"), ("fine", "nobody")]),
    ):
        with pytest.raises(KeyError, match="nobody"):
            act()
    with pytest.raises(ValueError, match="libplank-doc"):
        index.insert([search.Document("fresh", "a"), search.Document("libplank-doc", "b")])
    with pytest.raises(ValueError, match="twice"):
        index.insert([search.Document("twice", "a"), search.Document("twice", "b")])
    with pytest.raises(TypeError, match="Document"):
        index.insert([{"id": "a"}])
    with pytest.raises(ValueError, match="k = 0"):
        index.search("fine", k=0)
    assert log_of(tmp_path / "i").read_bytes() == before
    assert len(index) == len(sample())


@pytest.mark.parametrize(
    "fields",
    [
        {"id": "", "text": "a"},
        {"id": 3, "text": "a"},
        {"id": "a", "text": None},
        {"id": "a", "text": "\udcff"},
        {"id": "a", "text": "a", "title": 3},
        {"id": "a", "text": "a", "metadata": [1]},
        {"id": "a", "text": "a", "metadata": {"k": [1]}},
        {"id": "a", "text": "a" * 10_000_001},
    ],
)
def test_senseless_documents_are_refused(fields):
    with pytest.raises((ValueError, TypeError)):
        search.Document(**fields)


DOC = b'{"kind": "doc", "id": "a", "text": ""}\n'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"id": "a", "title": "t", "text": "x"}\n{"id": "b"\n', "line 2"),
        (b'{"id": "a", "title": "t", "text": "x"}\n[1]\n', "line 2"),
        (b'{"id": "a", "title": "t", "text": "\xff"}\n', "UTF-8"),
        (b'{"id": "a", "title": "t", "text": "\\ud800"}\n', "surrogate"),
        (b'{"id": "a", "title": "t"}\n', "text"),
        (b'{"id": "a", "text": "x"}\n', "title"),
        (b'{"kind": "doc", "id": "a", "text": "x"}\n', "0 queries"),
        (b'{"kind": "query", "text": "x", "rel": ["a"]}\n', "0 documents"),
        (b'{"kind": "cat"}\n', "kind"),
        (DOC + b'{"kind": "query", "text": "", "rel": "a"}', "rel"),
        (DOC + b'{"kind": "query", "text": "", "rel": ["b"]}', "0 queries"),
        (DOC + b'{"kind": "query", "text": "", "rel": []}', "grade"),
        (b'{"kind": "query", "text": "", "qrels": {"a": "1"}}', "qrels"),
        (b'{"id": "a", "title": "t", "text": "x"}\n' * 2, "two documents"),
        (b"[" * 100_000, "JSON"),
        (b"", "0 documents"),
    ],
)
def test_senseless_files_are_refused(tmp_path, data, message):
    path = tmp_path / "data.jsonl"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_dataset(path)
    zipped = tmp_path / "data.jsonl.gz"
    zipped.write_bytes(gzip.compress(data))
    with pytest.raises(ValueError, match=message):
        read_dataset(zipped)


def test_a_gzip_cut_short_is_refused(tmp_path):
    path = tmp_path / "data.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"id": "a", "title": "t", "text": "x"}\n' * 50)[:-20])
    with pytest.raises(ValueError, match=r"data\.jsonl\.gz"):
        read_dataset(path)
