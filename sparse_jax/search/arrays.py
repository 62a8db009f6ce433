"""Arrays of an index on disk: a folder of .npy files, read as they are needed (memory-mapped)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

__all__ = ["narrow", "read", "write"]


def write(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes arrays, durably; the folder is the caller's to sync.

    Args:
      folder: that exists.
      arrays: of numbers, by name.
    """
    for name, array in arrays.items():
        with open(folder / f"{name}.npy", "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())


def read(folder: Path) -> dict[str, np.ndarray]:
    """Arrays by name; they can't be written to.

    Raises:
      ValueError: if a file is damaged, or holds what is no array of numbers.
    """
    return {
        file.stem: np.asarray(np.load(file, mmap_mode="r", allow_pickle=False))
        for file in sorted(folder.glob("*.npy"))
    }


def narrow(array: np.ndarray) -> np.ndarray:
    """The same numbers in as few bytes as hold them: of whole ones from 0 to 2^32 - 1.

    Example:
      >>> [narrow(np.array(x)).dtype.name for x in ([0, 255], [256], [-1], [2.0], [2.5])]
      ['uint8', 'uint16', 'int64', 'uint8', 'float64']
    """
    if array.dtype.itemsize == 1 or not array.size or array.min() < 0:
        return array
    types: list[type[np.unsignedinteger]] = [np.uint8, np.uint16, np.uint32]
    top = array.max()
    for narrow in types if array.dtype.kind in "iu" else types[:1]:
        if top <= np.iinfo(narrow).max:
            cut = array.astype(narrow)
            return cut if np.array_equal(cut, array) else array
    return array
