"""Bytes of text files: gzip recognised by content, byte order marks, UTF-8."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import zlib

# UTF-32's mark begins with UTF-16's: it comes first.
_WIDE_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a file, decompressed if it is gzip, whatever its name.

    Args:
        path: the file.

    Returns:
        All of it.

    Raises:
        ValueError: a damaged gzip stream; the message begins with the line, "line N: ".
        OSError: the file can't be read.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp(), "names.txt")
        >>> _ = path.write_bytes(gzip.compress(b"red\\n"))
        >>> read_bytes(path)
        b'red\\n'
    """
    with open(path, "rb") as file:
        return unpack(file.read())


def unpack(content: bytes) -> bytes:
    """The content of a file, decompressed if it is gzip.

    Args:
        content: all bytes of the file.

    Returns:
        What they hold.

    Raises:
        ValueError: a damaged gzip stream; the message begins with the line, "line N: ".

    Example:
        >>> unpack(gzip.compress(b"red")), unpack(b"red")
        (b'red', b'red')
    """
    if not content.startswith(b"\x1f\x8b"):
        return content
    chunks: list[bytes] = []
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(content)) as stream:
            while chunk := stream.read(1 << 20):
                chunks.append(chunk)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        line = 1 + sum(chunk.count(b"\n") for chunk in chunks)
        raise ValueError(
            f"line {line}: the gzip stream is damaged here or later ({error})"
        ) from None
    return b"".join(chunks)


def refuse_documents(content: bytes) -> None:
    """Refuses what office programs write, whose bytes may well pass for text.

    Args:
        content: the beginning of a file, or all of it.

    Raises:
        ValueError: the message begins with the line, and says what it is.

    Example:
        >>> refuse_documents(b"%PDF-1.7")
        Traceback (most recent call last):
        ValueError: line 1: is a PDF: must be text, or a table as CSV; convert it or save it as such
    """
    what = "a PDF" if content.startswith(b"%PDF-") else ""
    if content.startswith(b"PK\x03\x04"):
        parts = {b"word/document.xml": "a Word document", b"xl/workbook.xml": "an Excel workbook"}
        what = next((said for part, said in parts.items() if part in content), "")
    if what:
        raise ValueError(
            f"line 1: is {what}: must be text, or a table as CSV; convert it or save it as such"
        )


def without_mark(content: bytes) -> bytes:
    """The content without UTF-8's byte order mark, which Windows programs write first.

    Args:
        content: the beginning of a file, or all of it.

    Returns:
        What follows the mark; all of it where there is none.

    Raises:
        ValueError: the byte order mark of UTF-16 or UTF-32, as `>` writes it in PowerShell 5.

    Example:
        >>> without_mark(b"\\xef\\xbb\\xbf2 10 4\\n")
        b'2 10 4\\n'
    """
    encoding = _wide_encoding(content)
    if encoding is not None:
        raise ValueError(
            f"encoding = {encoding}: must be UTF-8; convert the file: "
            f"iconv -f {encoding} -t UTF-8 FILE > NEW"
        )
    return content.removeprefix(codecs.BOM_UTF8)


def decode(content: bytes) -> str:
    """The text of a whole file: UTF-8, or what its byte order mark says.

    Args:
        content: all bytes of the file.

    Returns:
        The text, without the mark.

    Raises:
        ValueError: bytes that are no text in that encoding; the message begins with the line.

    Example:
        >>> decode(b"\\xef\\xbb\\xbfred"), decode("red".encode("utf-16"))
        ('red', 'red')
    """
    encoding = _wide_encoding(content) or "UTF-8-SIG"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding == "UTF-8-SIG" else encoding
        line = 1 + content[: error.start].count(b"\n")
        raise ValueError(
            f"line {line}: byte {error.start} of the file is no {name}; convert the file, for "
            "example: iconv -f LATIN1 -t UTF-8 FILE > NEW"
        ) from None


def _wide_encoding(content: bytes) -> str | None:
    return next((name for mark, name in _WIDE_MARKS if content.startswith(mark)), None)
