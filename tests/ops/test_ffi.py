"""Which kernels run, and what is said where there are none: in processes of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import sparse_jax
from sparse_jax.ops import ffi

PACKAGE = Path(sparse_jax.__file__).parent
IMPORT = "import sys, sparse_jax; from sparse_jax.ops import ffi; print(ffi.AVAILABLE)"
LOADED = "print([name for name in sys.modules if name.endswith('_kernels')])"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a program with folders on its path and no other copy of the package.

    An installed copy lies among its own dependencies: these are linked to from a folder of theirs.
    """
    others = tmp_path_factory.mktemp("dependencies")
    for folder in map(Path, sys.path):
        if (folder / "sparse_jax").exists() and (folder / "jax").exists():
            for entry in folder.iterdir():
                if not entry.name.startswith("sparse_jax"):
                    (others / entry.name).symlink_to(entry)

    def program(code: str, path: list[Path], **environment: str):
        alone = (
            "import os, sys; sys.path[:] = [p for p in sys.path if p in "
            f"{[str(p) for p in path]} or not os.path.exists(os.path.join(p, 'sparse_jax'))]; "
        )
        given = {k: v for k, v in os.environ.items() if k != "SPARSE_JAX_PURE"} | environment
        given["PYTHONPATH"] = os.pathsep.join(map(str, [*path, others]))
        done = subprocess.run(
            [sys.executable, "-P", "-c", alone + code], capture_output=True, text=True, env=given
        )
        assert done.returncode == 0, done.stderr
        return done

    return program


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A source tree whose kernels are not built."""
    root = tmp_path_factory.mktemp("tree")
    without = shutil.ignore_patterns("_kernels*", "__pycache__")
    shutil.copytree(PACKAGE, root / "sparse_jax", ignore=without)
    (root / "kernels").mkdir()
    (root / "kernels" / "CMakeLists.txt").touch()
    return root


@pytest.mark.skipif(not ffi.AVAILABLE, reason="no C++ kernels to leave out")
def test_pure_does_not_even_load_the_kernels(run):
    path = [PACKAGE.parent]
    assert run(f"{IMPORT}; {LOADED}", path).stdout == "True\n['sparse_jax._kernels']\n"
    # Parsing is no custom call, but C++ all the same.
    parse = "from sparse_jax.ops import xmc_parser as x; print(x.parse_xmc(b'1 1 1\\n\\n')[5])"
    done = run(f"{IMPORT}; {parse}; {LOADED}", path, SPARSE_JAX_PURE="1")
    assert done.stdout == "False\n1\n[]\n"
    assert done.stderr == ""


def test_a_tree_without_kernels_says_how_to_build_them(run, tree):
    told = run(IMPORT, [tree])
    assert told.stdout == "False\n"
    assert f"the C++ kernels are not built in the source tree {tree};" in told.stderr
    assert f"pip install {tree};" in told.stderr
    assert f"cd {tree} && cmake -S kernels" in told.stderr


def test_a_tree_in_front_of_an_installed_copy_says_so(run, tree, tmp_path):
    """`python -c "import sparse_jax"` in the repository's root after `pip install .`."""
    installed = tmp_path / "sparse_jax"
    installed.mkdir()
    (installed / "__init__.py").touch()
    # One without kernels, too, is no cure.
    assert "the C++ kernels are not built in the source" in run(IMPORT, [tree, tmp_path]).stderr
    (installed / f"_kernels{EXTENSION_SUFFIXES[0]}").touch()
    told = run(IMPORT, [tree, tmp_path]).stderr
    assert f"this is the source tree {tree}, whose C++ kernels are not built" in told
    assert f"the installed copy, {installed}, has them" in told
    assert "Leave this folder, or start Python in it with -P" in told
    assert "pip install --force" not in told


def test_kernels_that_do_not_load_are_not_called_missing(run, tree):
    broken = tree / "sparse_jax" / f"_kernels{EXTENSION_SUFFIXES[0]}"
    broken.write_bytes(b"no library")
    try:
        told = run(IMPORT, [tree])
    finally:
        broken.unlink()
    assert told.stdout == "False\n"
    assert f"the C++ kernels in {tree / 'sparse_jax'} do not load" in told.stderr
