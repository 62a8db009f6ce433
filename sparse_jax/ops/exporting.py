"""Which custom calls a compiled program may hold."""

from __future__ import annotations

from sparse_jax.ops import ffi


def targets() -> list[str]:
    """Names under which XLA knows our kernels, in order; none where they don't run."""
    return sorted(ffi.native().handlers()) if ffi.AVAILABLE else []
