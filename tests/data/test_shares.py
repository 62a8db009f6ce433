"""Shares of a file: together the whole, each line once, wherever the ranges are cut."""

from __future__ import annotations

import dataclasses
import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparse_jax import data
from sparse_jax.data.shares import read_share

LINES = [
    b"1,3 0:1 7:2.5",
    b" 9:1",
    b"",
    b"2",
    b"0 1:1 2:2 3:3 4:4 5:5 6:6 8:8",
    b"3 9:-0.5",
    b"1 0:1",
]


def check_shares(path: Path, counts: Any = range(1, 12)) -> list[int]:
    """That shares are the whole; the sizes of the shares of the last count."""
    whole = data.read_xmc(path)
    for count in counts:
        shares = [read_share(path, index, count) for index in range(count)]
        assert {share.num_points for share in shares} == {whole.num_points}
        together = data.concatenate(*(share.points for share in shares))
        for field in dataclasses.fields(whole):
            np.testing.assert_array_equal(
                getattr(together, field.name), getattr(whole, field.name), strict=True
            )
    return [share.points.num_points for share in shares]


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
@pytest.mark.parametrize("last", [b"", b"newline"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("packed", [False, True])
def test_all_shares_are_the_file(
    tmp_path: Path, newline: bytes, last: bytes, mark: bytes, packed: bool
) -> None:
    content = mark + newline.join([b"7 10 4", *LINES]) + (newline if last else b"")
    path = tmp_path / "points.txt"
    path.write_bytes(gzip.compress(content) if packed else content)
    sizes = check_shares(path)
    assert 0 in sizes and sum(sizes) == 7


def test_any_lengths_of_lines(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "points.txt"
    for turn in range(20):
        rows = int(rng.integers(0, 9))
        lines = [
            " " + " ".join(f"{i}:1" for i in range(int(rng.integers(0, 30) ** 2 // 30)))
            for _ in range(rows)
        ]
        path.write_text(f"{rows} 100 1\n" + "".join(line + "\n" for line in lines))
        check_shares(path, counts=(1, 2, 3, 7, turn + 1))


def test_a_file_without_points_has_empty_shares(tmp_path: Path) -> None:
    for content in ("0 5 5\n", "0 5 5"):
        (tmp_path / "none.txt").write_text(content)
        assert check_shares(tmp_path / "none.txt", counts=(3,)) == [0, 0, 0]


def test_only_the_range_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "points.txt"
    line = " " + " ".join(f"{i}:1" for i in range(100))
    path.write_text("1000 100 1\n" + (line + "\n") * 1000)
    asked = []
    real = open

    class Counted:
        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Counted:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def read(self, size: int = -1) -> bytes:
            found: bytes = self.file.read(size)
            asked.append(len(found))
            return found

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    monkeypatch.setattr("builtins.open", lambda *args: Counted(real(*args)))
    monkeypatch.setattr("sparse_jax.data.shares._LINE", 1 << 10)
    assert read_share(path, 3, 10).points.num_points in (99, 100, 101)
    assert sum(asked) < path.stat().st_size / 9


@pytest.mark.parametrize("packed", [False, True])
def test_errors_name_the_line_of_the_whole_file(tmp_path: Path, packed: bool) -> None:
    lines = [b"5 10 4", *LINES[:4], b"2 0:x"]
    content = b"\n".join(lines) + b"\n"
    path = tmp_path / "points.txt"
    path.write_bytes(gzip.compress(content) if packed else content)
    for count in (1, 2, 3, 5, 9):
        raised = []
        for index in range(count):
            try:
                read_share(path, index, count)
            except data.FormatError as error:
                raised.append(error)
        assert [error.line for error in raised] == [6]
        assert "feature value 'x' is not a number; mend" in str(raised[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "line 1: the file is empty"),
        (b"hello\n", "line 1: the header must be three whole numbers"),
        (b"1 99999999999 3\n\n", "exceeds 2147483647"),
        (b"\xff\xfe1\x00", "encoding = UTF-16"),
        (gzip.compress(b"1 2 3\n\n", mtime=0)[:-9], "gzip stream is damaged"),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "points.txt"
    path.write_bytes(content)
    with pytest.raises(data.FormatError, match=message):
        read_share(path, 0, 2)


def test_bad_share() -> None:
    with pytest.raises(ValueError, match="index = 2: must be from 0 to 1"):
        read_share("points.txt", 2, 2)
