"""A disk that fails, or a process that dies, at any write: the old thing or the new one is whole.

`failing_disk.Disk` counts what changes the disk. Each test runs once to count, then fails at each
call, and loads what a copy at each call holds.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from failing_disk import disk
from small_index import TINY
from small_points import points_of

from sparse_jax import data, search
from sparse_jax.runtime import checkpoint, files, saved
from sparse_jax.search import snapshot

pytestmark = pytest.mark.usefixtures("quick_compiles")

D = search.Document


# What is written as one thing: write(place, n), and read(place) -> n, which fails if it isn't whole


def write_model(place: Path, n: int) -> None:
    arrays = {"w": np.full(300, n), "b": np.arange(n, dtype=np.float32)}
    saved.save(place, kind="toy", config={"n": n}, arrays=arrays)


def read_model(place: Path) -> int:
    config, arrays = saved.load(place, kind="toy")
    assert arrays["w"].tolist() == [config["n"]] * 300 and arrays["b"].size == config["n"]
    return config["n"]


def write_points(place: Path, n: int) -> None:
    rows = [({i % 3}, {i % 5: float(n)}) for i in range(n)]
    data.write_xmc(place / "p.txt.gz", points_of(rows, 5, 3))


def read_points(place: Path) -> int:
    points = data.read_xmc(place / "p.txt.gz")
    assert points.feature_values.tolist() == [points.num_points] * points.num_points
    return points.num_points


def write_json(place: Path, n: int) -> None:
    files.write_json(place / "r.json", [n] * n)


def read_json(place: Path) -> int:
    found = (place / "r.json").read_text().split()
    assert found[0] == "[" and found[-1] == "]"
    return len(found) - 2


ONE_THING = [(write_model, read_model), (write_points, read_points), (write_json, read_json)]


@pytest.mark.parametrize(("write", "read"), ONE_THING)
@pytest.mark.parametrize("power", [False, True])
def test_what_is_left_at_any_moment_is_the_old_or_the_new(tmp_path, write, read, power):
    place, copies = tmp_path / "a", tmp_path / "copies"
    write(place, 7)
    with disk(place, copies=copies, power=power) as seen:
        write(place, 8)
    found = [read(copy) for copy in sorted(copies.iterdir())]
    assert len(found) == len(seen.calls) > 5 and found[0] == 7
    assert found == sorted(found) and read(place) == 8
    for copy in copies.iterdir():  # and goes on from there
        write(copy, 9)
        assert read(copy) == 9


@pytest.mark.parametrize(("write", "read"), ONE_THING)
@pytest.mark.parametrize("forever", [False, True])
def test_a_write_refused_anywhere_leaves_the_old_or_the_new(tmp_path, write, read, forever):
    place, number, refused = tmp_path / "a", 0, 0
    while True:
        number += 1
        shutil.rmtree(place, ignore_errors=True)
        write(place, 7)
        before = sorted(p.name for p in place.iterdir())
        with disk(place, fail_at=number, forever=forever) as seen:
            try:
                write(place, 8)
                done = True
            except OSError as error:
                assert error.errno == 28 and error.filename
                done = False
        if len(seen.calls) < number:
            break
        refused += not done
        assert read(place) in ((8,) if done else (7, 8))
        # A disk that is full is not filled with what no one will read.
        assert done or read(place) == 8 or sorted(p.name for p in place.iterdir()) == before
        write(place, 9)
        assert read(place) == 9 and len(list(place.iterdir())) == len(before)
    assert refused > 4


def test_power_cuts_lose_what_is_not_synced(tmp_path):
    """The layer itself: without fsync, the copy of a power cut lacks the content."""
    place = tmp_path / "a"
    write_json(place, 7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("failing_disk._Os.fsync", lambda self, handle: self.disk.call("no fsync"))
        with disk(place, copies=tmp_path / "copies", power=True):
            write_json(place, 8)
    last = sorted((tmp_path / "copies").iterdir())[-1]
    assert (last / "r.json").read_bytes() == b""


def test_a_checkpoint_that_cannot_be_written_is_an_error_of_one_line(tmp_path, monkeypatch):
    """Orbax writes from threads of its own, and raises what they met."""
    checkpoint.save(tmp_path, {"w": np.ones(3)}, step=1, extra={"n": 1})

    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def save(self, path, args):
            half = path.with_name(f"{path.name}.orbax-checkpoint-tmp")
            half.mkdir()
            (half / "state").write_bytes(b"half")
            raise ValueError("one\nRESOURCE_EXHAUSTED: No space left on device [x='y']")

    monkeypatch.setattr(checkpoint, "_checkpointer", lambda _: Full())
    with pytest.raises(
        OSError, match=r"_step_2 can't be written \(RESOURCE_EXHAUSTED: No"
    ) as found:
        checkpoint.save(tmp_path, {"w": np.zeros(3)}, step=2, extra={"n": 2})
    assert "\n" not in str(found.value)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["000001_step_1"]
    usage = shutil.disk_usage(tmp_path)._replace(free=500_000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"needs 1\.0 MB, of which 0\.5 MB are free; make") as found:
        checkpoint.save(tmp_path, {"w": np.zeros(3)}, step=2, extra={"n": 2})
    assert found.value.errno == 28 and found.value.filename == str(tmp_path)
    state, extra = checkpoint.restore(tmp_path, {"w": np.zeros(3)})
    assert state["w"].tolist() == [1, 1, 1] and extra == {"n": 1}


def test_savers_in_one_directory_take_turns_and_readers_see_whole_models(tmp_path):
    write_model(tmp_path, 1)
    errors: list[BaseException] = []
    running = threading.Event()
    running.set()

    def work(act: Callable[[], object]) -> None:
        try:
            act()
        except BaseException as error:
            errors.append(error)

    def save(first: int) -> None:
        for n in range(first, first + 25):
            write_model(tmp_path, n)

    def load() -> None:
        while running.is_set():
            assert read_model(tmp_path) >= 1

    savers = [threading.Thread(target=work, args=(lambda f=f: save(f),)) for f in (100, 200)]
    reader = threading.Thread(target=work, args=(load,))
    for thread in (*savers, reader):
        thread.start()
    for thread in savers:
        thread.join()
    running.clear()
    reader.join()
    assert errors == [] and read_model(tmp_path) in (124, 224)
    assert len(list(tmp_path.iterdir())) == 2


# An index ---------------------------------------------------------------------------------------

NOTES = [D(f"d{i}", f"text number {i} about thing{i % 3}") for i in range(6)]


@pytest.fixture(scope="module")
def small_index(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("index")
    with search.fit(NOTES, config=TINY) as index:
        index.save(place)
    return place


def held(place: Path) -> tuple[set[str], int]:
    """Ids and feedback of the index in a directory."""
    with search.load(place, read_only=True) as index:
        return set(index._documents.numbers), len(index._state.feedback)


def act(index: search.Index, number: int) -> None:
    """One of several changes."""
    match number % 3:
        case 0:
            index.insert([D(f"n{number}", "new")])
        case 1:
            index.upvote(f"about {number}", "d1")
        case 2:
            index.upsert([D("d2", f"another text {number}")])


@pytest.mark.parametrize("forever", [False, True])
def test_a_change_that_was_refused_does_not_come_back(small_index, tmp_path, forever):
    """Nor does what was acknowledged go; row `full disk` of docs/reliability.md."""
    number, refused = 0, 0
    while True:
        number += 1
        place = tmp_path / f"i{number}"
        shutil.copytree(small_index, place)
        with disk(place, forever=forever) as seen, search.load(place) as index:
            seen.fail_at = len(seen.calls) + number
            for n in range(5):
                try:
                    act(index, n)
                except OSError as error:
                    assert error.filename
                    refused += 1
            if len(seen.calls) < seen.fail_at:
                break
            seen.fail_at = 0  # space again
            act(index, 6)
            act(index, 7)
            memory = set(index._documents.numbers), len(index._state.feedback)
        assert held(place) == memory and {"n6", *(d.id for d in NOTES)} <= memory[0]
    assert refused > 5


def save_failing(source: Path, root: Path, number: int, new: bool) -> tuple[int, bool]:
    """A save that fails at a call, and what is left; (how many calls there were, if it failed)."""
    place, other, failed = root / "i", root / "new", False
    shutil.copytree(source, place)
    with search.load(place) as index:
        index.insert([D("before", "text")])
        with disk(root, fail_at=number) as seen:
            try:
                index.save(other if new else None)
                where = other if new else place
            except OSError:
                where, failed = place, True
        calls, seen.fail_at = len(seen.calls), 0  # space again
        try:
            index.insert([D("after", "text")])
            after = {"after"}
        except ValueError as error:  # the disk failed at the very last: closed, not lost
            assert "read only" in str(error) and index._lock_file is None
            after = set()
        if after and number % 2:
            index.save()
        assert index._path == where
    whole = {d.id for d in NOTES} | {"before"} | after
    assert held(where)[0] == whole
    with search.load(where) as again:  # not locked any more
        assert len(list(where.glob("snapshot-*"))) == 1
        again.save(other)
    assert held(other)[0] == whole
    return calls, failed


@pytest.mark.slow
@pytest.mark.parametrize("new", [False, True])
def test_a_save_that_fails_anywhere_loses_no_change(small_index, tmp_path, new):
    """Not one made before it, nor one acknowledged after it; the next save succeeds."""
    calls, failed = save_failing(small_index, tmp_path / "0", 0, new)
    assert calls > 50 and not failed
    fails = 0
    for number in (1, 2, 3, *range(4, calls - 12, 19), *range(calls - 12, calls + 1)):
        fails += save_failing(small_index, tmp_path / str(number), number, new)[1]
    assert fails > 15


@pytest.mark.slow
@pytest.mark.parametrize("power", [False, True])
def test_a_process_killed_at_any_write_of_a_save_leaves_a_whole_index(small_index, tmp_path, power):
    place, copies = tmp_path / "i", tmp_path / "copies"
    shutil.copytree(small_index, place)
    with search.load(place) as index:
        index.insert([D("before", "text")])
        index.upvote("any", "before")
        with disk(place, copies=copies, power=power) as seen:
            index.save()
            act(index, 0)
    assert len(seen.calls) > 100
    whole = {d.id for d in NOTES} | {"before"}
    for number, copy in enumerate(sorted(copies.iterdir())):
        if number % 7 == 0 or number > len(seen.calls) - 14:
            assert held(copy) in ((whole, 1), (whole | {"n0"}, 1))
    assert held(place) == (whole | {"n0"}, 1)


@pytest.mark.slow
def test_readers_see_whole_indexes_while_a_writer_saves(small_index, tmp_path):
    """Each with all that was acknowledged before it was opened; those that are open go on."""
    place, done = tmp_path / "i", [0]
    shutil.copytree(small_index, place)
    errors: list[BaseException] = []

    def write() -> None:
        try:
            with search.load(place) as index:
                for n in range(1, 25):
                    index.insert([D(f"n{n}", f"new thing {n}")])
                    done[0] = n
                    index.save()
        except BaseException as error:
            errors.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    loads = 0
    with search.load(place, read_only=True) as first:
        before = first.search("text number 3", k=6)
        while writer.is_alive():
            least = done[0]
            with search.load(place, read_only=True) as index:
                for n in range(1, least + 1):
                    assert index.get(f"n{n}").text == f"new thing {n}"
                assert index.get("d3") == NOTES[3] and index.search("thing2", k=1)
            loads += 1
        assert first.search("text number 3", k=6) == before and first.get("d5") == NOTES[5]
    writer.join()
    assert errors == [] and loads > 2


@pytest.mark.parametrize("moment", ["before its files are read", "before its log is read"])
def test_a_reader_that_a_save_overtakes_reads_again(small_index, tmp_path, monkeypatch, moment):
    place = tmp_path / "i"
    shutil.copytree(small_index, place)
    with search.load(place) as writer:
        writer.insert([D("before", "text")])
        name = "_read" if "files" in moment else "read"
        real = getattr(snapshot, name)

        def overtaken(folder: Path) -> object:
            monkeypatch.undo()
            found = None if name == "_read" else real(folder)
            writer.save()
            return found or real(folder)

        monkeypatch.setattr(snapshot, name, overtaken)
        with search.load(place, read_only=True) as reader:
            assert reader.get("before").text == "text"
