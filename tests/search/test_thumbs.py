"""The log of thumbs: kept as a journal, the newest thumb counts, whatever the locale."""

from __future__ import annotations

import json
import zlib

import pytest
from failing_disk import disk

from sparse_jax.search.journal import read_journal
from sparse_jax.search.thumbs import FILE, MAX_ANSWER, Thumb, Thumbs, in_force, read_thumbs

UP = Thumb("Wo wächst 蘋果?", "In Gärten.\nÜberall 🍎.", ("d1", "ö 2"), True)
DOWN = Thumb("Where?", "Nowhere.", (), False)


@pytest.fixture
def log(tmp_path):
    found = Thumbs(tmp_path)
    for thumb in (UP, DOWN):
        found.add(thumb)
    found.close()
    return tmp_path / FILE


def test_what_was_kept_is_read_in_order(log):
    assert read_thumbs(log.parent) == [UP, DOWN]
    assert "蘋果" in log.read_text(encoding="utf-8")  # as it was written, not by the locale


def test_no_file_before_the_first_thumb(tmp_path):
    empty = Thumbs(tmp_path)
    assert empty.of("Where?") == {} == in_force(read_thumbs(tmp_path))
    empty.close()
    assert list(tmp_path.iterdir()) == []


def test_the_newest_thumb_counts_before_and_after_a_restart(log):
    thumbs = Thumbs(log.parent)
    thumbs.add(DOWN._replace(is_up=True, question=" where? "))
    thumbs.add(DOWN._replace(answer="There."))
    told = {"Nowhere.": True, "There.": False}
    assert thumbs.of("WHERE?") == told
    thumbs.close()
    assert Thumbs(log.parent).of("where?") == told
    found = in_force(read_thumbs(log.parent))
    assert [(x.answer, x.is_up) for x in found["where?"]] == list(told.items()) and len(found) == 2


@pytest.mark.parametrize("other", [False, True])
def test_a_log_that_was_moved_away_is_begun_anew(log, other):
    """What was told to be kept went into the file that was moved, or into one that was deleted."""
    thumbs, place = Thumbs(log.parent), log.parent
    thumbs.add(UP)
    log.rename(place / "old.log")
    if other:  # of a backup
        log.write_bytes((place / "old.log").read_bytes().splitlines(keepends=True)[1])
    for one in (UP, UP._replace(is_up=False)):
        thumbs.add(one)
    thumbs.close()
    assert read_thumbs(place) == [*[DOWN] * other, UP, UP._replace(is_up=False)]
    assert thumbs.of(DOWN.question) == ({DOWN.answer: False} if other else {})
    assert (place / "old.log").read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("cut", [1, 5, 40])
def test_a_torn_last_line_is_dropped_and_then_cut_off(log, cut):
    log.write_bytes(log.read_bytes()[:-cut])
    assert read_thumbs(log.parent) == [UP]
    again = Thumbs(log.parent)
    again.add(DOWN)
    again.close()
    assert read_thumbs(log.parent) == [UP, DOWN]
    assert read_journal(log)[1] == log.stat().st_size


def test_damage_before_the_last_line_is_said(log):
    data = bytearray(log.read_bytes())
    data[20] ^= 1
    log.write_bytes(data)
    for read in (Thumbs, read_thumbs):
        with pytest.raises(ValueError, match=r"thumbs\.log: byte 0: .* restore it from a backup"):
            read(log.parent)


@pytest.mark.parametrize(
    "record", [{}, [], {**UP._asdict(), "is_up": 1}, {**UP._asdict(), "sources": [3]}]
)
def test_what_another_version_wrote_is_said(log, record):
    text = json.dumps(record).encode()
    log.write_bytes(log.read_bytes() + b"%08x %s\n" % (zlib.crc32(text), text))
    with pytest.raises(ValueError, match=r"thumbs\.log, line 3: must have question"):
        read_thumbs(log.parent)


@pytest.mark.parametrize(
    ("thumb", "message"),
    [
        (UP._replace(question=" ?"), "has no letter"),
        (UP._replace(question="x\udcff"), "question holds half a surrogate pair"),
        (UP._replace(answer="x\udcff"), "answer holds half a surrogate pair"),
        (UP._replace(answer=" \n"), "must be a text"),
        (UP._replace(answer="x" * (MAX_ANSWER + 1)), "answer has 50,001 characters"),
        (UP._replace(sources=(3,)), "sources.* must be a string"),
    ],
)
def test_what_is_no_thumb_is_refused_and_not_kept(log, thumb, message):
    thumbs = Thumbs(log.parent)
    with pytest.raises((ValueError, TypeError), match=message):
        thumbs.add(thumb)
    thumbs.close()
    assert read_thumbs(log.parent) == [UP, DOWN]


def test_a_full_disk_keeps_what_was_acknowledged(log):
    """The disk fails at its first change, and later ones; then it has room again."""
    for number in range(1, 30):
        thumbs, new = Thumbs(log.parent), UP._replace(answer=f"{number}")
        before = read_thumbs(log.parent)
        with disk(log.parent, fail_at=number, forever=True) as full:
            try:
                thumbs.add(new)
            except OSError:
                assert read_thumbs(log.parent) == before
                assert f"{number}" not in thumbs.of(UP.question)
                full.fail_at = 0
                thumbs.add(DOWN)
                assert read_thumbs(log.parent) == [*before, DOWN]
            else:
                break
            finally:
                thumbs.close()
    assert number > 2 and read_thumbs(log.parent) == [*before, new]
