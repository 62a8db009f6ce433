"""Files that name ids: one name a line."""

from __future__ import annotations

import os

from sparse_jax.data.encoding import decode, read_bytes


def read_names(path: str | os.PathLike[str], *, count: int | None = None) -> tuple[str, ...]:
    """The names of labels or features, from a file with one a line: line 1 names id 0.

    Plain or gzip, UTF-8 or what the file's byte order mark says. Lines end with a line feed, with
    or without a carriage return before it; the name is all of the line, spaces included. An empty
    line is an empty name, so that the ids behind it stay right.

    Args:
        path: the file, such as `*_labels.txt.gz` beside a data set.
        count: how many names there must be: `num_labels`, or `num_features`, of the data. Empty
            lines at the end, beyond that number, are ignored. None takes all lines.

    Returns:
        The names, by id.

    Raises:
        ValueError: fewer or more names than `count`, bytes that aren't text, a damaged gzip stream.
            The message begins with the path.
        OSError: the file can't be read.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "labels.txt")
        >>> _ = path.write_bytes("red\\nNew York\\ncafé\\n".encode())
        >>> read_names(path, count=3)
        ('red', 'New York', 'café')
    """
    try:
        lines = decode(read_bytes(path)).split("\n")
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None
    if not lines[-1]:
        lines.pop()
    names = [line.removesuffix("\r") for line in lines]
    if count is not None:
        while len(names) > count and not names[-1]:
            names.pop()
        if len(names) != count:
            raise ValueError(
                f"{os.fspath(path)}: names = {len(names)}: must be {count}, one a line for each id "
                "of the data; give the names file that belongs to this data"
            )
    return tuple(names)
