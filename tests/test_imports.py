"""The house's laws of imports, read from the source: no module is run. And every doctest."""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import sparse_jax

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "sparse_jax"

# A module imports from its own layer and those before it. Private modules count as the layer
# that they serve.
LAYERS = [
    {"_ffi", "_kernels", "allocator", "_tables_jax", "_bag", "_adam", "_softmax", "rounding"}
    | {"_eigh"},
    {"hashing", "tables", "rows", "metrics", "data", "topk"},
    {"active", "losses", "optim", "_optim_probe", "_optim_rows", "fused", "schedules", "index"}
    | {"accounting", "quantized"},
    {"layers"},
    {"network", "wide", "label_tree"},
    {"training", "inference", "checkpoint", "tuner"},
    {"lm", "search", "summarize", "nn"},
    {"preference"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Who may import what; "" is `sparse_jax/__init__.py`.
ONLY = {
    "optax": {"optim", "_optim_probe", "_optim_rows", "fused", "training", "search", "lm"}
    | {"summarize"},
    "flax": {"nn"},
    "orbax": {"checkpoint"},
    "bm25s": {"search"},
    "starlette": set(),
    "uvicorn": set(),
    "nanobind": set(),
    "torch": set(),
    "tensorflow": set(),
}


def type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)


def imports(path: Path, package: tuple[str, ...]) -> list[str]:
    """Full dotted names that a file imports, those for the type checker alone left out."""
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.extend(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(package[: len(package) - node.level + 1]) if node.level else []
            base += [node.module] if node.module else []
            # `from a import b`: b may be a module or a name in a.
            found.extend(".".join([*base, alias.name]) for alias in node.names)
        children = node.orelse if isinstance(node, ast.If) and type_checking(node) else None
        for child in ast.iter_child_nodes(node) if children is None else children:
            visit(child)

    visit(ast.parse(path.read_text(encoding="utf-8"), str(path)))
    return found


def modules() -> list[tuple[str, Path, list[str]]]:
    """(top-level module of the package, file, its imports) for each file in the package."""
    out = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        package = ("sparse_jax", *path.relative_to(PACKAGE).parent.parts)
        out.append(("" if parts == ("__init__",) else parts[0], path, imports(path, package)))
    return out


def scripts() -> list[Path]:
    return sorted((ROOT / "scripts").rglob("*.py"))


def test_every_module_has_a_layer():
    unknown = {module for module, _, _ in modules()} - set(LEVEL) - {""}
    assert not unknown, f"{sorted(unknown)}: put them into LAYERS, in tests/test_imports.py"


def test_imports_go_one_way():
    wrong = []
    for module, path, names in modules():
        if module == "":
            continue  # the public surface gathers from every layer
        for name in names:
            head, _, rest = name.partition(".")
            if head != "sparse_jax":
                continue
            target = rest.split(".")[0]
            # Taken from the package itself (`from sparse_jax import rowwise`): above every layer.
            level = LEVEL.get(target, len(LAYERS))
            same_file = target == module
            if not same_file and level > LEVEL.get(module, -1):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_circles():
    graph: dict[str, set[str]] = {}
    for module, _, names in modules():
        targets = {n.split(".")[1] for n in names if n.startswith("sparse_jax.")}
        graph.setdefault(module, set()).update((targets & set(LEVEL)) - {module})
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())


@pytest.mark.parametrize("library", ONLY)
def test_who_knows_a_library(library):
    wrong = [
        str(path.relative_to(ROOT))
        for module, path, names in modules()
        if module not in ONLY[library] and any(n.split(".")[0] == library for n in names)
    ]
    assert not wrong, f"only {sorted(ONLY[library])} may import {library}"


def test_optional_libraries_are_not_needed_by_the_package():
    optional = {"flax", "orbax", "tqdm", "matplotlib", "hypothesis", "pytest"}
    for module, path, names in modules():
        if module in {"nn", "checkpoint"}:
            continue
        taken = optional & {name.split(".")[0] for name in names}
        assert not taken, f"{path.relative_to(ROOT)} imports {sorted(taken)}"


def test_scripts_use_the_public_surface():
    for path in scripts():
        for name in imports(path, ()):
            parts = name.split(".")
            if parts[0] == "sparse_jax":
                private = [p for p in parts if p.startswith("_") and not p.startswith("__")]
                assert not private, f"{path.relative_to(ROOT)} imports {name}"


def test_the_package_does_not_import_scripts_or_tests():
    outside = {path.stem for path in [*scripts(), *(ROOT / "tests").glob("*.py")]} | {"tests"}
    for _, path, names in modules():
        assert not outside & {name.split(".")[0] for name in names}, path


def test_only_the_doors_know_xla_and_nanobind():
    sources = [p for p in (ROOT / "kernels").rglob("*") if p.suffix in {".h", ".cc"}]
    assert sources
    for path in sources:
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(ROOT / "kernels").as_posix()
        if "#include <nanobind" in text:
            assert name == "module.cc"
        if '#include "xla/' in text or "#include <xla/" in text:
            doors = {"ffi_common.h", "ffi_handlers.h", "ffi_handlers.cc", "search_handlers.cc"}
            assert name in doors


def importable() -> list[str]:
    """Public and private modules of the package that this environment can import."""
    names = ["sparse_jax"]
    for module in pkgutil.walk_packages(sparse_jax.__path__, "sparse_jax.", onerror=lambda _: None):
        if not module.name.split(".")[-1].startswith("_kernels"):
            names.append(module.name)
    return sorted(names)


@pytest.mark.parametrize("name", importable())
def test_doctests(name):
    needs = {"nn": "flax", "checkpoint": "orbax", "search": "bm25s", "summarize": "bm25s"}
    parts = name.split(".")
    if len(parts) > 1 and parts[1] in needs:
        pytest.importorskip(needs[parts[1]])
    module = importlib.import_module(name)
    result = doctest.testmod(
        module,
        extraglobs={"jax": jax, "jnp": jnp},
        optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
    )
    assert result.failed == 0
