"""Plain text files: gzip, byte order marks, and bytes that are no text."""

from __future__ import annotations

import os
from typing import NamedTuple

from sparse_jax.data.encoding import decode, read_bytes, refuse_documents, without_mark

__all__ = ["Plain", "decode_text", "read"]


class Plain(NamedTuple):
    """What was read."""

    text: str
    replaced: int  # runs of bytes that are no UTF-8, each U+FFFD in the text


def decode_text(content: bytes, name: str) -> Plain:
    """The text of a whole file: UTF-8, or what its byte order mark says.

    Args:
        content: all bytes, decompressed.
        name: of the file, for messages.

    Raises:
        ValueError: bytes that are no text; it names the file.

    Example:
        >>> decode_text("red".encode("utf-16"), "a.txt")
        Plain(text='red', replaced=0)
        >>> decode_text(b"caf\\xe9", "a.txt").replaced
        1
    """
    replaced = 0
    try:
        refuse_documents(content)
    except ValueError as error:
        raise ValueError(f"{name}, {error}") from None
    try:
        text = decode(content)
    except ValueError as error:
        try:
            without_mark(content)
        except ValueError:  # a mark of UTF-16 or UTF-32, and then something else
            raise ValueError(f"{name}, {error}") from None
        text = content.decode("utf-8-sig", errors="replace")
        replaced = text.count("\ufffd") - content.count("\ufffd".encode())
    if "\0" in text:
        line = 1 + text.count("\n", 0, text.index("\0"))
        raise ValueError(
            f"{name}, line {line}: a NUL character: must be text in UTF-8; if it is UTF-16 without "
            "a byte order mark, convert it: iconv -f UTF-16LE -t UTF-8 FILE > NEW"
        )
    return Plain(text, replaced)


def read(path: str | os.PathLike[str]) -> Plain:
    """The text of a file, which may be compressed by gzip: see `decode_text`.

    Raises:
        ValueError: bytes that are no text, or a damaged gzip stream; it names the file.
        OSError: the file can't be read.
    """
    try:
        content = read_bytes(path)
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    return decode_text(content, str(path))
