"""The door to the C++ kernels: registration, and the pure-JAX fallback where they are missing."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from typing import Any

import jax

try:
    from sparse_jax import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]


def _register() -> bool:
    if os.environ.get("SPARSE_JAX_PURE") == "1":
        return False
    if _kernels is None:
        warnings.warn(
            "sparse_jax: the C++ kernels are not built; the pure-JAX fallback gives the same "
            "answers, slower. Reinstall with a C++17 compiler to build them: pip install .",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    try:
        for name, capsule in _kernels.handlers().items():
            jax.ffi.register_ffi_target(name, capsule, platform="cpu")
    except Exception as error:
        major, minor = _kernels.FFI_API_VERSION
        raise ImportError(
            f"sparse_jax: the kernels, built for XLA FFI {major}.{minor}, do not load on jaxlib "
            f"{jax.lib.__version__}: {error}. Rebuild them against it: pip install "
            "--force-reinstall --no-deps ."
        ) from error
    return True


AVAILABLE: bool = _register()
"""Whether the kernels run. SPARSE_JAX_PURE=1 in the environment turns them off, for comparison."""


def call(name: str, results: Any, *, aliases: dict[int, int] | None = None) -> Callable[..., Any]:
    """`jax.ffi.ffi_call` of the kernel `name`, batched under `vmap` one element at a time."""
    return jax.ffi.ffi_call(
        f"sparse_jax_{name}",
        results,
        input_output_aliases=aliases,
        vmap_method="sequential",
    )


def native() -> Any:
    """The extension module, for what is no custom call; only where `AVAILABLE`."""
    return _kernels
