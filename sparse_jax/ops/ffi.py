"""The door to the C++ kernels: registration, and the pure-JAX fallback where they are missing."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path
from typing import Any

import jax

_PURE = os.environ.get("SPARSE_JAX_PURE") == "1"
_PACKAGE = Path(__file__).resolve().parents[1]

_kernels: Any = None
_error: ImportError | None = None
if not _PURE:
    try:
        from sparse_jax import _kernels  # type: ignore[no-redef]
    except ImportError as error:
        _error = error


def _has_kernels(package: Path) -> bool:
    return any((package / f"_kernels{suffix}").exists() for suffix in EXTENSION_SUFFIXES)


def _installed_elsewhere() -> Path | None:
    """The folder of another copy of the package on the path, which has its kernels."""
    others = [p for p in sys.path if Path(p or ".").resolve() != _PACKAGE.parent]
    spec = PathFinder.find_spec("sparse_jax", others)
    places = spec.submodule_search_locations if spec else None
    return next((p for p in map(Path, places or ()) if _has_kernels(p)), None)


def _missing() -> str:
    """What is the matter where there are no kernels, and the cure for just that."""
    root = _PACKAGE.parent
    build = (
        f"pip install cmake nanobind && cd {root} && cmake -S kernels -B build/in_place "
        "-DCMAKE_BUILD_TYPE=Release && cmake --build build/in_place && "
        "cmake --install build/in_place --prefix ."
    )
    installed = _installed_elsewhere()
    if _has_kernels(_PACKAGE):
        what = f"the C++ kernels in {_PACKAGE} do not load ({_error})"
        cure = f"Rebuild them: {build}"
    elif installed is not None:
        what = (
            f"this is the source tree {root}, whose C++ kernels are not built; the installed copy, "
            f"{installed}, has them"
        )
        cure = (
            "Leave this folder, or start Python in it with -P, which keeps it off the path; or "
            f"build the kernels in place: {build}"
        )
    elif (root / "kernels" / "CMakeLists.txt").exists():
        what = f"the C++ kernels are not built in the source tree {root}"
        cure = (
            "With a C++17 compiler, install the package and use it from another folder: "
            f"pip install {root}; or build the kernels in place: {build}"
        )
    else:
        what = "the C++ kernels are not built"
        cure = (
            "Reinstall from the repository, with a C++17 compiler: "
            "pip install --force-reinstall --no-deps ."
        )
    return f"{what}; the pure-JAX fallback gives the same answers, slower. {cure}"


def _register() -> bool:
    if _PURE:
        return False
    if _kernels is None:
        warnings.warn(f"sparse_jax: {_missing()}", RuntimeWarning, stacklevel=3)
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
