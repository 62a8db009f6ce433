"""NumPy's `.npz` with its arrays at places that a processor reads at once: they can be mapped.

What is written here `np.load` reads as any other; the first byte of each array's numbers is at a
multiple of 64 in the file. Mapped arrays are read from the disk page by page, when they are used,
and processes that map one file share its memory.
"""

from __future__ import annotations

import mmap
import struct
import zipfile
from typing import BinaryIO

import numpy as np

__all__ = ["mapped", "write"]

ALIGNMENT = 64
_HEADER, _ZIP64 = 30, 20  # bytes of a member's header, and of its sizes above 4 GB
_PADDING = 0xD935  # the kind of extra field that holds nothing: zipalign's


def write(file: BinaryIO, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays, uncompressed.

    Args:
      file: open for writing.
      arrays: of numbers, by name.

    Raises:
      ValueError: if an array holds objects.
    """
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")
            begins = archive.start_dir + _HEADER + len(member.filename.encode()) + _ZIP64 + 4
            padding = -begins % ALIGNMENT  # NumPy's own header is a multiple of 64 long
            member.extra = struct.pack("<HH", _PADDING, padding) + bytes(padding)
            with archive.open(member, "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)


def mapped(file: BinaryIO, names: list[str]) -> dict[str, np.ndarray]:
    """Arrays that can't be written to, by name; what can't be mapped is read.

    Their numbers are not checked against the file's check sums, as `np.load` does: that reads all.

    Args:
      file: of `write`, or of `np.savez`, open for reading.
      names: of the arrays.

    Returns:
      The arrays; the file may be closed.

    Raises:
      KeyError: if one is missing.
      ValueError: if the file is damaged where it says what is where.
      zipfile.BadZipFile: if it is none.
    """
    found = {}
    with zipfile.ZipFile(file) as archive:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        for name in names:
            member = archive.getinfo(f"{name}.npy")
            array = None
            if member.compress_type == zipfile.ZIP_STORED:
                array = _map(file, memory, member)
            if array is None:
                with archive.open(member) as stream:
                    array = np.lib.format.read_array(stream, allow_pickle=False)
            found[name] = array
    return found


def _map(file: BinaryIO, memory: mmap.mmap, member: zipfile.ZipInfo) -> np.ndarray | None:
    """A member's array; None if it is empty or not at a multiple of ALIGNMENT."""
    file.seek(member.header_offset)
    header = file.read(_HEADER)
    if header[:4] != b"PK\3\4":
        raise ValueError(f"{member.filename} is not where it should be")
    begins = file.seek(sum(struct.unpack("<HH", header[26:30])), 1)
    if np.lib.format.read_magic(file) != (1, 0):  # a header longer than any of plain numbers
        return None
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(file)
    at = file.tell()
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if at - begins + size != member.file_size or at + size > len(memory):
        raise ValueError(f"{member.filename} is not as long as it should be")
    if dtype.hasobject or at % ALIGNMENT or not size:
        return None
    return np.ndarray(shape, dtype, memory, at, order="F" if by_columns else "C")
