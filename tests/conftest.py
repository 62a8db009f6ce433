"""Strict settings for the whole suite, and which copy of the package it tests."""

from __future__ import annotations

import atexit
import collections
import contextlib
import ctypes
import gc
import mmap
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from pathlib import Path

import pytest
import threads

ROOT = Path(__file__).resolve().parent.parent
_MOST_COMPILED = 2_000_000_000  # bytes; then it begins anew


def _choose_copy() -> None:
    """Makes this process and its children import the copy of sparse_jax that has the kernels.

    `python -m pytest`, and `python -c` in the repository, find the source tree first; after
    `pip install .` the kernels lie in the installed copy only. A tree with kernels built in place
    is what its developer wants tested, and a tree that isn't installed is all there is.
    """
    in_place = any((ROOT / "sparse_jax" / f"_kernels{s}").exists() for s in EXTENSION_SUFFIXES)
    elsewhere = [p for p in sys.path if Path(p or ".").resolve() != ROOT]
    use_tree = in_place or PathFinder.find_spec("sparse_jax", elsewhere) is None
    sys.path[:] = [str(ROOT), *elsewhere] if use_tree else elsewhere
    # Children: no working directory on their path, but what scripts would find beside themselves.
    given = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    given = [p for p in given if Path(p).resolve() != ROOT]
    first = [str(ROOT)] if use_tree else []
    folders = [str(ROOT / "scripts"), *(str(ROOT / "scripts" / f) for f in ("bench", "studies"))]
    os.environ["PYTHONPATH"] = os.pathsep.join([*first, *given, *folders])
    os.environ["PYTHONSAFEPATH"] = "1"


def _share_a_folder() -> Path:
    """A folder for this session, its workers and what they start; what they compile lies in it.

    Most of the suite's time would go into compiling the same programs again, in each process and
    after each `jax.clear_caches`. The next session has them too: they lie in build/, by the kind of
    processor and the number of cores, for which JAX doesn't ask (see `threads.environment`).
    """
    from sparse_jax.runtime import compiled  # of the copy that was chosen

    if "SPARSE_JAX_SESSION" not in os.environ:
        os.environ["SPARSE_JAX_SESSION"] = tempfile.mkdtemp(prefix="sparse_jax-tests-")
        atexit.register(shutil.rmtree, os.environ["SPARSE_JAX_SESSION"], ignore_errors=True)
        former = ROOT / "build" / "compiled"
        if sum(file.stat().st_size for file in former.rglob("*-cache")) > _MOST_COMPILED:
            shutil.rmtree(former, ignore_errors=True)
    folder = Path(os.environ["SPARSE_JAX_SESSION"])
    kept = ROOT / "build" / "compiled" / compiled.kind_of_machine()
    kept = kept if os.access(ROOT, os.W_OK) else folder / "compiled"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(kept))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    return folder


_choose_copy()
_SESSION = _share_a_folder()
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax  # noqa: E402

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

with warnings.catch_warnings():
    # Said at the end of the report instead.
    warnings.filterwarnings("ignore", "sparse_jax: the C\\+\\+ kernels are not built")
    import quickly

    import sparse_jax
    from sparse_jax.ops import ffi
    from sparse_jax.runtime import compiled

_least_memory, _MUCH_MEMORY, _MORE_MEMORY = 0, 1_500_000_000, 200_000_000  # bytes
_PURE = os.environ.get("SPARSE_JAX_PURE") == "1"
_WHY_NO_KERNELS = (
    "switched off by SPARSE_JAX_PURE=1" if _PURE else "the extension is not built: pip install ."
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, lest a worker end with them alone.

    Programs run with several numbers of threads are slow ones: each number is a process of its own.
    """
    for item in items:
        if item.get_closest_marker("threads"):
            item.add_marker("slow")
    first = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in first)


def pytest_collection_finish() -> None:
    """What has been imported stays: the collector need not walk over it again and again."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says what was tested: a suite that passes without the kernels has not shown them right."""
    reasons = collections.Counter(
        report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        for report in terminalreporter.stats.get("skipped", [])
    )
    for reason, count in reasons.items():
        terminalreporter.write_line(f"{count} skipped: {reason.removeprefix('Skipped: ')}")
    kernels = "with C++ kernels" if ffi.AVAILABLE else f"NO C++ kernels: {_WHY_NO_KERNELS}"
    terminalreporter.write_line(f"tested {Path(sparse_jax.__file__).parent}, {kernels}")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int | None:
    """Workers of `-n auto`: the cores that this process may use, not those of the machine."""
    return compiled.cores()


@pytest.fixture(scope="module")
def quick_compiles() -> Iterator[None]:
    """For tiny arrays: most of the time would go into LLVM.

    Bits differ between the two ways to compile, and JAX keeps what it compiled without asking
    which way that was: nothing may be left over from another module, or for one.
    """
    jax.clear_caches()
    with quickly.compiled():
        yield
    jax.clear_caches()


@pytest.fixture(scope="module")
def lean_compiles() -> Iterator[None]:
    """As `quick_compiles`, for what computes much: LLVM optimizes, XLA fuses by simpler means."""
    jax.clear_caches()
    with quickly.compiled(optimized=True):
        yield
    jax.clear_caches()


@pytest.fixture
def optimized_compiles() -> Iterator[None]:
    """As `lean_compiles`, for a few tests of a file that compiles quickly."""
    with quickly.optimized():
        yield


@pytest.fixture(params=["ffi", "jax"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Runs the test on the C++ kernels, then on the pure-JAX fallback.

    `jax.jit` keeps what it traced by the function it was given: jit a new `lambda`, never a
    function of the package itself, or the second run repeats the first.
    """
    if request.param == "ffi" and not ffi.AVAILABLE:
        pytest.skip(f"no C++ kernels: {_WHY_NO_KERNELS}")
    monkeypatch.setattr(ffi, "AVAILABLE", request.param == "ffi")
    yield request.param


@pytest.fixture(scope="session")
def _all_printed(request: pytest.FixtureRequest) -> threads.Printed:
    programs: dict[int, threads.Programs] = {}
    for item in request.session.items:
        for mark in item.iter_markers("threads"):
            for count in mark.kwargs["counts"]:
                programs.setdefault(count, {})[item.nodeid] = mark.args[0]
    return threads.run_once(_SESSION, programs)


@pytest.fixture
def printed(request: pytest.FixtureRequest, _all_printed: threads.Printed) -> dict[int, str]:
    """What the program of the mark `threads` prints, by the number of threads."""
    mark = request.node.get_closest_marker("threads")
    out = {}
    for count in mark.kwargs["counts"]:
        found = _all_printed[count][request.node.nodeid]
        assert not found.raised, f"with {count} threads: {found.raised}"
        out[count] = found.printed
    return out


@pytest.fixture(autouse=True)
def _pure_is_pure() -> Iterator[None]:
    yield
    assert not (_PURE and "sparse_jax._kernels" in sys.modules), "SPARSE_JAX_PURE=1 runs our C++"


@pytest.fixture(autouse=True)
def _bounded_memory() -> Iterator[None]:
    """Gives back what was compiled, about a megabyte a program, before it fills the machine."""
    yield
    global _least_memory
    if _resident_bytes() > max(_MUCH_MEMORY, _least_memory + _MORE_MEMORY):
        jax.clear_caches()
        gc.collect()
        with contextlib.suppress(AttributeError):  # where the C library isn't glibc
            ctypes.CDLL(None).malloc_trim(0)
        _least_memory = _resident_bytes()


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # not on Linux
        return 0
    return pages * mmap.PAGESIZE
