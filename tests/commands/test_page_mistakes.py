"""What goes wrong on the way into an index: odd names of files, a full disk, lessons half wrong."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

pytest.importorskip("bm25s", reason="needs sparse_jax[search]")

from small_index import TINY

from sparse_jax import search
from sparse_jax.commands import search as search_command
from sparse_jax.commands.serve import uploads
from sparse_jax.commands.serve.reading import Refusal

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture
def waiting():
    """An upload that waits for files, and its name."""
    found = uploads.Uploads(None)  # type: ignore[arg-type]
    yield found, found.begin()
    found.close()


@pytest.mark.parametrize("path", ["報告\u3000書.txt", "at 3.04\u202fPM.txt", "می\u200cخواهم/a.txt"])
def test_names_in_every_script_come_in(waiting, path):
    taker, name = waiting
    taker.add(name, path, b"x")
    assert taker.status()["files"] == 1


@pytest.mark.parametrize("path", ["a\nb", "a\u2028b", "a\x85b", "a\0b", "a\x1b"])
def test_names_that_break_lines_do_not(waiting, path):
    taker, name = waiting
    with pytest.raises(Refusal, match="must be names of folders and a file"):
        taker.add(name, path, b"x")


class HalfFile:
    """A file on a disk that is full before all is written."""

    def __init__(self, path: Any, mode: str) -> None:
        self.file = open(path, mode)

    def __enter__(self) -> HalfFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        self.file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


def test_half_a_file_on_a_full_disk_is_not_kept(waiting, monkeypatch):
    taker, name = waiting
    with monkeypatch.context() as patched:
        patched.setattr(uploads, "open", HalfFile, raising=False)
        with pytest.raises(Refusal, match="No space left"):
            taker.add(name, "a.txt", b"red apples")
    assert taker.status()["files"] == 0
    taker.add(name, "a.txt", b"red apples")  # not "a file that came once"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """An index of two documents."""
    place = tmp_path_factory.mktemp("index") / "index"
    rows = [search.Document("a", "red apples grow"), search.Document("b", "a ship sails")]
    with search.fit(rows, config=TINY) as made:
        made.save(place)
    return place


@pytest.mark.parametrize("wrong", ["", " ?! ", "\ud800"])
def test_a_file_of_lessons_is_learned_whole_or_not_at_all(index, tmp_path, capsys, wrong):
    lessons = [{"do": "associate", "source": x, "target": "apple"} for x in ("ship", wrong)]
    (tmp_path / "f.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in lessons))
    asked = ["feedback", str(index)]
    assert search_command.main([*asked, "--from", str(tmp_path / "f.jsonl")]) == 2
    assert "f.jsonl, line 2: source" in capsys.readouterr().err
    assert search_command.main(asked) == 0 and not capsys.readouterr().out
