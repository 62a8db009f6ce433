"""Keeping freed memory, which XLA:CPU asks for again in the next step, and giving it back."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory", "release_freed_memory"]

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8  # malloc.h
_SETTINGS = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 2**26), (_ARENA_MAX, 1))


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep what is freed for this process, instead of giving it back.

    XLA:CPU allocates the temporaries of a step anew in each call. Beyond 32 MiB glibc maps them
    afresh every time, and the system clears each page at its first touch: a quarter of the
    language model's step. Call this once, before the first large array. It holds for the whole
    process, whose resident memory then stays at its peak; so it is for scripts to call, and
    importing the library changes nothing.

    Returns:
      Whether it took effect; False where the C library isn't glibc.

    Example:
      >>> from sparse_jax.runtime.allocator import keep_freed_memory
      >>> keep_freed_memory() in (True, False)
      True

    Reference: mallopt(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return all([mallopt(name, value) == 1 for name, value in _SETTINGS])


def release_freed_memory() -> bool:
    """Gives what is freed back to the system, where glibc kept it. For the end of a training.

    Returns:
      Whether there was any; False where the C library isn't glibc.

    Example:
      >>> release_freed_memory() in (True, False)
      True

    Reference: malloc_trim(3).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).malloc_trim(0))
