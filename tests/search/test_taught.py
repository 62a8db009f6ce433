"""Opening an index whose log holds lessons: what they changed is taken from beside the log."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_index import TINY, same, sample

from sparse_jax import search
from sparse_jax.commands import search as command
from sparse_jax.search import state, taught

pytestmark = pytest.mark.usefixtures("lean_compiles")

WORDS = ("my favourite thing", "zorblax", "fonts of the east")


DOCUMENTS = [d for d in sample()[:60] if d.id != "libplank-doc"]
DOCUMENTS += [d for d in sample() if d.id == "libplank-doc"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    place = tmp_path_factory.mktemp("taught") / "i"
    with search.fit(DOCUMENTS, config=TINY) as made:
        made.save(place)
    return place


@pytest.fixture
def place(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "i")
    return tmp_path / "i"


def teach(index: search.Index) -> None:
    index.upvote(WORDS[0], "libplank-doc")
    index.undo(index.upvote("wrong", "libplank-doc"))
    index.associate(WORDS[1], "dock library plank")


def found(index: search.Index) -> list:
    return [[(r.id, r.score) for r in index.search(query)] for query in WORDS]


@pytest.fixture
def repeats(monkeypatch) -> list[str]:
    """What changes are made of the log's."""
    made: list[str] = []
    apply = state.State.apply

    def noted(self, record, **more):
        made.append(record["do"])
        return apply(self, record, **more)

    monkeypatch.setattr(state.State, "apply", noted)
    return made


def log(place: Path) -> Path:
    return place / json.loads((place / "manifest.json").read_text())["log"]


@pytest.mark.slow
def test_a_query_after_lessons_repeats_none_and_needs_no_jax(place, repeats):
    with search.load(place) as index:
        teach(index)
        right = found(index)
    repeats.clear()
    with search.load(place, read_only=True) as again:
        assert found(again) == right and repeats == []
    code = (
        "import sys; from sparse_jax import search\n"
        f"index = search.load({str(place)!r}, read_only=True)\n"
        "print(index.search('zorblax', k=1)[0].id, 'jax' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == [right[1][0][0], "False"]


def test_it_equals_the_log_repeated_and_learns_on_alike(place, repeats):
    with search.load(place) as index:
        teach(index)
    repeats.clear()
    one = search.load(place, read_only=True)
    assert repeats == []
    taught.path_of(log(place)).unlink()
    two = search.load(place, read_only=True)
    assert repeats == ["upvote", "associate"]
    same(one, two)
    assert one._state.feedback == two._state.feedback and one._events == two._events
    a, b = one._state.learner, two._state.learner
    assert a.count == b.count == 2
    for old, new in zip(a.base + a.events, b.base + b.events, strict=True):
        np.testing.assert_equal(vars(old), vars(new))
    for index in (one, two):  # on what was taken over, and on what was repeated
        index._read_only = False
        index.upvote("another", "libplank-doc")
    same(one, two)


def test_more_lessons_and_undo(place, repeats):
    with search.load(place) as index:
        start = found(index)
        first = index.upvote(WORDS[0], "libplank-doc")
        once = found(index)
    with search.load(place) as index:
        index.upvote(WORDS[2], "libplank-doc")
        right = found(index)
        index._made = -1  # as if it had been killed
    repeats.clear()
    with search.load(place) as index:
        assert found(index) == right and repeats == ["upvote"]  # the second alone
        index.undo()
        assert found(index) == once
        index.undo(first)
        assert found(index) == start
    repeats.clear()
    with search.load(place) as index:
        assert found(index) == start and repeats == []
        with pytest.raises(ValueError, match="no feedback"):
            index.undo()
        teach(index)
        right = found(index)
        index.save()
        assert found(index) == right
    assert not list(place.glob("taught-*"))


@pytest.mark.parametrize("damage", ["cut", "flipped", "later", "empty", "other log", "pickle"])
def test_a_file_that_does_not_fit_is_left_alone(place, repeats, damage):
    with search.load(place) as index:
        teach(index)
        right = found(index)
    file = taught.path_of(log(place))
    data = bytearray(file.read_bytes())
    match damage:
        case "cut":
            file.write_bytes(data[: len(data) // 2])
        case "flipped":
            data[len(data) // 2] ^= 255
            file.write_bytes(data)
        case "later":  # a version of zip that nobody reads
            data[data.index(b"PK\1\2") + 6] = 255
            file.write_bytes(data)
        case "empty":
            file.write_bytes(b"")
        case "pickle":
            np.savez(place / "x.npz", header=np.array([{}], object))
            (place / "x.npz").rename(file)
        case _:
            arrays = dict(np.load(file))
            arrays["header"][1] += 1
            np.savez(place / "x.npz", **arrays)
            (place / "x.npz").rename(file)
    repeats.clear()
    with search.load(place, read_only=True) as again:
        assert found(again) == right and repeats == ["upvote", "associate"]


def test_other_changes_are_repeated(place, repeats):
    with search.load(place) as index:
        teach(index)
        index.insert([search.Document("new", "hoverboards")])
        right = found(index)
    assert not taught.path_of(log(place)).exists()
    with search.load(place, read_only=True) as again:
        assert found(again) == right


@pytest.mark.slow
def test_adding_by_command_leaves_no_work_to_queries(place, tmp_path, repeats, capsys):
    more = tmp_path / "more.jsonl"
    more.write_text('{"id": "new", "text": "hoverboards"}\n')
    assert command.main(["index", str(place), str(more)]) == 0
    repeats.clear()
    with search.load(place) as index:
        assert index.search("hoverboards", k=1)[0].id == "new" and repeats == []
        index.upvote(WORDS[0], "libplank-doc")
    more.write_text('{"id": "newer", "text": "ostriches"}\n')
    assert command.main(["index", str(place), str(more)]) == 0
    with search.load(place) as index:  # a lesson can still be taken back
        assert index.search("ostriches", k=1)[0].id == "newer"
        index.undo()


def test_a_lesson_that_was_cut_short_is_not_kept(place, monkeypatch):
    index = search.load(place)
    index.upvote(WORDS[0], "libplank-doc")
    apply = state.State.apply

    def half(self, record, **more):
        apply(self, record, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr(state.State, "apply", half)
    with pytest.raises(KeyboardInterrupt):
        index.upvote(WORDS[2], "libplank-doc")
    monkeypatch.undo()
    index.upvote(WORDS[2], "libplank-doc")
    index.close()
    assert not taught.path_of(log(place)).exists()
    assert len(search.load(place, read_only=True)._state.feedback) == 3


def test_a_full_disk_is_no_error(place, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(taught, "write_atomically", full)
    with search.load(place) as index:
        teach(index)
        right = found(index)
    with search.load(place, read_only=True) as again:
        assert found(again) == right
