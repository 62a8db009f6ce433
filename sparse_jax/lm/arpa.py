"""ARPA files: the text form in which toolkits of n-gram models, as SRILM and KenLM, exchange them.

    \\data\\
    ngram 1=4
    ngram 2=2

    \\1-grams:
    -1.2   <unk>
    -99    <s>    -0.3
    ...
    \\2-grams:
    -0.4   <s> fox
    ...
    \\end\\

A line holds log10 p, the words, and the log10 backoff of the n-gram as a context, 0 if left out.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import zlib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from sparse_jax.data.errors import FormatError
from sparse_jax.lm.ngram import MARKS, NGram, Order, find, look_up

__all__ = ["read"]

_COUNT = re.compile(rb"ngram\s+(\d{1,18})\s*=\s*(\d{1,18})")
_SECTION = re.compile(rb"\\(\d{1,18})-grams:")
_KENLM_BINARY = b"mmap lm http://kheafield.com/code"
_PREFACE = 1000  # lines before \data\, which may say what they like
_AT_ONCE = 512  # lines parsed together: few enough to be freed before the collector ages them
_NOTHING = np.float32(np.nan)  # log10 p of a context that isn't listed itself
_MOST_BACKOFF = 60.0  # log10: five of them together are a double; what sums to one has some 10
NO_UNKNOWN = -100.0  # log10 p of <unk> where a file has none, as KenLM's


class Rows(NamedTuple):
    """The n-grams of one length, in the order of the file."""

    ids: np.ndarray  # int32 [g, n]
    log10_p: np.ndarray  # float32 [g]
    backoff: np.ndarray  # float32 [g]
    lines: np.ndarray  # int64 [g], 0 for one that isn't in the file


def read(path: str | os.PathLike[str]) -> NGram:
    """The model of an ARPA file, which may be compressed by gzip.

    What is refused is what KenLM refuses, with the line: counts that don't hold, n-grams of unknown
    words, log10 p that are above 0 or no numbers, no <s> or no </s>; and two things that it reads:
    n-grams listed twice, of which it silently takes the first, and log10 backoffs above 60. Three
    things are mended, of which `notes` tells: a file without <unk> gets one of log10 p = -100, as
    in KenLM; and where the first words of an n-gram aren't listed by themselves, they are taken as
    a context with a backoff of 0, as SRILM does (KenLM refuses the file). `<UNK>` is read as
    `<unk>`. A probability may be -inf.

    Args:
      path: of the file.

    Returns:
      An `NGram`.

    Raises:
      ValueError: if it is no ARPA file, or a wrong one; it names the file, the line and the cure.
      OSError: if it can't be read.

    Example:
      >>> import pathlib, tempfile
      >>> path = pathlib.Path(tempfile.mkdtemp(), "small.arpa")
      >>> rows = ["-99 <s> -0.25", "-1 </s>", "-0.5 fox"]
      >>> head = ["\\\\data\\\\", "ngram 1=3", "ngram 2=1", "\\\\1-grams:"]
      >>> tail = ["\\\\2-grams:", "-0.1 <s> fox", "\\\\end\\\\"]
      >>> _ = path.write_text("\\n".join([*head, *rows, *tail]))
      >>> model = read(path)
      >>> model.score(["fox", "cat"]).log10_p.round(3).tolist(), model.notes
      ([-1.1, -101.25], ('no <unk>: taken with log10 p = -100',))

    References:
      The format as SRILM's manual page ngram-format(5) describes it.
    """
    with open(path, "rb") as raw:
        packed = raw.peek(2)[:2] == b"\x1f\x8b"
        # Not by gzip.open: its errors come without the line.
        file: Any = io.BufferedReader(gzip.GzipFile(fileobj=raw)) if packed else raw  # type: ignore[arg-type]
        lines = _Lines(str(path), file)
        try:
            return _read(lines)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            lines.fail(f"the gzip stream is damaged here or later ({error}); copy the file anew")


class _Lines:
    """The lines of a file, and which one it is at."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path, self.file, self.number = path, file, 0

    def __iter__(self) -> Iterator[bytes]:
        for line in self.file:
            self.number += 1
            yield line

    def fail(self, message: str, line: int | None = None) -> NoReturn:
        raise FormatError(self.path, f"line {line or self.number}: {message}") from None


def _read(lines: _Lines) -> NGram:
    each = iter(lines)
    counts, head = _counts(lines, each)
    words: list[bytes] = []
    rows = []
    for n, (count, line) in enumerate(counts, 1):
        found = _SECTION.fullmatch(head)
        if found is None or int(found[1]) != n:
            lines.fail(f"{_show(head)}: must be \\{n}-grams:, as \\data\\ says; complete the file")
        taken, head = _section(lines, each, n, last=n == len(counts), words=words)
        if taken.lines.size != count:
            message = f"ngram {n}={count}: but {taken.lines.size} follow; complete the file, or"
            lines.fail(f"{message} correct the count", line)
        rows.append(taken)
    if head != b"\\end\\":
        lines.fail(f"{_show(head)}: must be \\end\\; complete the file")
    return _make(lines, words, rows)


def _counts(lines: _Lines, each: Iterator[bytes]) -> tuple[list[tuple[int, int]], bytes]:
    """((count, its line) of each length from 1 on, the line behind them)."""
    for line in islice(each, _PREFACE):
        if line.startswith(_KENLM_BINARY):
            lines.fail("a KenLM binary: must be ARPA; give the file that build_binary was given")
        if line.removeprefix(b"\xef\xbb\xbf").strip() == b"\\data\\":
            break
    else:
        raise FormatError(lines.path, "has no \\data\\: must be an ARPA file; give one")
    counts: list[tuple[int, int]] = []
    for line in each:
        line = line.strip()
        if line.startswith(b"\\"):
            break
        if not line:
            continue
        found = _COUNT.fullmatch(line)
        if found is None or int(found[1]) != len(counts) + 1:
            lines.fail(f"{_show(line)}: must be ngram {len(counts) + 1}=COUNT; mend \\data\\")
        counts.append((int(found[2]), lines.number))
    else:
        lines.fail("the file ends within \\data\\; complete it")
    if not counts:
        lines.fail("\\data\\ names no n-grams: must name at least ngram 1=COUNT; mend it")
    return counts, line


def _show(line: bytes) -> str:
    return line[:60].decode("utf-8", "replace") or "end of the file"


def _section(
    lines: _Lines, each: Iterator[bytes], n: int, *, last: bool, words: list[bytes]
) -> tuple[Rows, bytes]:
    """The n-grams of one length and the line behind them; unigrams are appended to `words`."""
    ids = {word: i for i, word in enumerate(words)}
    parts: list[Rows] = []
    head = None
    while head is None:
        some, head = _some(each, lines)
        _check(
            some,
            np.array([len(row) not in (n + 1, n + 2) for row in some.fields], bool),
            lambda row: (
                f"{len(row)} fields: must be log10 p, {n} word{'s' * (n > 1)} and at most a "
                "backoff; mend it"
            ),
        )
        if n == 1:
            _learn(some, words, ids)
        parts.append(_parse(some, n, last, ids))
    return Rows(*map(np.concatenate, zip(*parts, strict=True))), head


class _Some(NamedTuple):
    """Some lines of a section, as fields, with their numbers."""

    lines: _Lines
    fields: list[list[bytes]]
    numbers: list[int]


def _some(each: Iterator[bytes], lines: _Lines) -> tuple[_Some, bytes | None]:
    """The next lines of a section, and the one behind it; None if the section goes on."""
    some = _Some(lines, [], [])
    for line in each:
        if line.startswith(b"\\"):  # log10 p can't begin with it
            return some, line.strip()
        if row := line.split():
            some.fields.append(row)
            some.numbers.append(lines.number)
            if len(some.fields) == _AT_ONCE:
                return some, None
    return some, b""


def _check(some: _Some, wrong: np.ndarray, message: Callable[[list[bytes]], str]) -> None:
    """Refuses the first line that is wrong."""
    if wrong.any():
        at = int(np.argmax(wrong))
        some.lines.fail(message(some.fields[at]), some.numbers[at])


def _learn(some: _Some, words: list[bytes], ids: dict[bytes, int]) -> None:
    """Gives words their ids in the order of the file."""
    for row, number in zip(some.fields, some.numbers, strict=True):
        word = row[1]
        if word in ids:
            some.lines.fail(f"{_show(word)} is listed twice: must be once; drop one", number)
        try:
            word.decode("utf-8")
        except UnicodeDecodeError:
            cure = "convert the file, for example: iconv -f LATIN1 -t UTF-8 FILE > NEW"
            some.lines.fail(f"{_show(word)} is no UTF-8; {cure}", number)
        ids[word] = len(words)
        words.append(word)


def _parse(some: _Some, n: int, last: bool, ids: dict[bytes, int]) -> Rows:
    """n-grams from their fields, checked one by one."""
    fields = some.fields
    log10_p = _floats([row[0] for row in fields])
    backoff = _floats([row[-1] if len(row) == n + 2 else b"0" for row in fields])
    number = "must be a number"
    _check(
        some,
        ~(log10_p <= 0),
        lambda row: f"log10 p = {_show(row[0])}: {number}, and at most 0; mend it",
    )
    _check(
        some,
        ~(backoff <= _MOST_BACKOFF),
        lambda row: f"backoff = {_show(row[-1])}: {number}, at most {_MOST_BACKOFF:g}; mend it",
    )
    if last:
        _check(
            some,
            backoff != 0,
            lambda row: f"backoff = {_show(row[-1])}: the longest n-grams have none; drop it",
        )
    get = ids.get
    flat = (get(word, -1) for row in fields for word in row[1 : n + 1])
    found = np.fromiter(flat, np.int32, n * len(fields)).reshape(-1, n)
    _check(
        some,
        np.any(found < 0, axis=1),
        lambda row: (
            f"{_show(next(w for w in row[1 : n + 1] if w not in ids))} is no 1-gram: must be one; "
            "add it there, or drop this line"
        ),
    )
    return Rows(found, log10_p, backoff, np.array(some.numbers, np.int64))


def _floats(texts: list[bytes]) -> np.ndarray:
    """Numbers as float32; NaN where there is none. Python takes 1_0 for 10, which is refused."""

    def one(text: bytes) -> float:
        try:
            return float(text) if b"_" not in text else np.nan
        except ValueError:
            return np.nan

    try:
        numbers = float if b"_" not in b"".join(texts) else one
        found = np.fromiter(map(numbers, texts), np.float64, len(texts))
    except ValueError:
        found = np.fromiter(map(one, texts), np.float64, len(texts))
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        return found.astype(np.float32)


def _make(lines: _Lines, words: list[bytes], rows: list[Rows]) -> NGram:
    """The model, its words numbered anew so that MARKS come first."""
    notes = []
    marks = [mark.encode() for mark in MARKS]
    log10_p, backoff = rows[0].log10_p, rows[0].backoff
    if marks[0] not in words and b"<UNK>" in words:
        words[words.index(b"<UNK>")] = marks[0]
    elif marks[0] not in words:
        words.append(marks[0])
        log10_p = np.append(log10_p, np.float32(NO_UNKNOWN))
        backoff = np.append(backoff, np.float32(0))
        notes.append(f"no <unk>: taken with log10 p = {NO_UNKNOWN:g}")
    for mark in marks[1:]:
        if mark not in words:
            message = f"has no 1-gram {mark.decode()}: must have one, as sentences do; add it"
            raise FormatError(lines.path, message)
    first = [words.index(mark) for mark in marks]
    rest = sorted({*range(len(words))} - {*first})
    place = np.empty(len(words), np.int32)
    place[[*first, *rest]] = np.arange(len(words), dtype=np.int32)
    unigrams = np.argsort(place)
    rows[0] = rows[0]._replace(log10_p=log10_p[unigrams], backoff=backoff[unigrams])
    rows[1:] = [row._replace(ids=place[row.ids]) for row in rows[1:]]
    orders, added = _orders(lines, rows)
    if added:
        notes.append(f"{added:,} contexts that no line lists: taken with backoff 0")
    names = (words[i].decode("utf-8") for i in unigrams)
    return NGram(tuple(names), tuple(orders), tuple(notes))


def _orders(lines: _Lines, rows: list[Rows]) -> tuple[list[Order], int]:
    """n-grams sorted by keys, and how many contexts had to be added to them."""
    size = rows[0].log10_p.size
    orders = [Order(np.arange(size, dtype=np.int64), rows[0].log10_p, rows[0].backoff)]
    added = 0
    while len(orders) < len(rows):
        n = len(orders) + 1
        given = rows[n - 1]
        prefix = given.ids[:, 0].astype(np.int64)
        for length in range(2, n):
            prefix = find(orders[length - 1], prefix * size + given.ids[:, length - 1])
            if (missing := given.ids[prefix < 0]).size:
                # No longer beginning of these can be listed: it would have been missed before.
                for k in range(length, n):
                    rows[k - 1], more = _with_contexts(rows[k - 1], missing[:, :k])
                    added += more
                del orders[length - 1 :]
                break
        else:
            keys = prefix * size + given.ids[:, -1]
            place = np.argsort(keys, kind="stable")
            keys = keys[place]
            if (twice := np.flatnonzero(keys[1:] == keys[:-1])).size:
                again = given.lines[place[twice + 1]]
                at = int(np.argmin(again))
                before = given.lines[place[twice[at]]]
                message = f"this n-gram stands in line {before}, too: must be once; drop one"
                lines.fail(message, int(again[at]))
            log10_p = given.log10_p[place]
            blank = np.flatnonzero(np.isnan(log10_p))
            if blank.size:
                rest = _backed_off(orders, given.ids[place[blank]])
                log10_p[blank] = orders[-1].backoff[prefix[place[blank]]] + rest
            orders.append(Order(keys, log10_p, given.backoff[place]))
    return orders, added


def _with_contexts(rows: Rows, contexts: np.ndarray) -> tuple[Rows, int]:
    """Rows with contexts that they lack, and how many these are."""
    ids = np.unique(contexts, axis=0)
    size = len(ids)
    blank = Rows(ids, np.full(size, _NOTHING), np.zeros(size, np.float32), np.zeros(size, np.int64))
    return Rows(*map(np.concatenate, zip(rows, blank, strict=True))), size


def _backed_off(orders: list[Order], ids: np.ndarray) -> np.ndarray:
    """log10 p of the last word of each n-gram, int [g, n], without its first: float64 [g]."""
    return look_up(orders, ids.reshape(-1)).log10_p.reshape(ids.shape)[:, -1]
