"""The house's laws of imports, read from the source: no module is run."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "sparse_jax"

# A room imports from the floors below its own. On the third, `runtime` and `text` serve the others;
# on no floor does one room lean on its neighbour, so no model imports a model.
FLOORS = [
    {"ops"},
    {"rows"},
    {"runtime", "text"},
    {"retrieval", "layers", "optim", "data"},
    {"sharding"},
    {"xmc", "lm", "search", "summarize", "recommend", "nn"},
    {"sklearn"},
    {"commands"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MODELS = FLOORS[5]

# Who may import what; "" is `sparse_jax/__init__.py`.
ONLY = {
    "optax": {"optim", "commands"} | MODELS - {"nn"},
    "flax": {"nn"},
    "orbax": {"runtime"},
    "tqdm": {"commands"},
    "matplotlib": {"commands"},
    "bm25s": {"search", "text"},
    "sklearn": {"sklearn"},
    "starlette": {"commands"},
    "uvicorn": {"commands"},
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


@functools.cache
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


def test_every_room_has_a_floor():
    unknown = {room for room, _, _ in modules()} - set(FLOOR) - {""}
    assert not unknown, f"{sorted(unknown)}: give them a floor in tests/house/test_law.py"


def rooms_of(names: list[str]) -> set[str]:
    """Rooms of our own that a file imports; a name of the package itself stands above them all."""
    parts = [name.split(".") for name in names if name.split(".")[0] == "sparse_jax"]
    return {part[1] if len(part) > 1 else "" for part in parts}


def test_imports_go_down():
    wrong = []
    for room, path, names in modules():
        if room == "":
            continue  # the public surface gathers from every floor
        for target in rooms_of(names) - {room, "_kernels"}:
            if FLOOR.get(target, len(FLOORS)) >= FLOOR[room]:
                wrong.append(f"{path.relative_to(ROOT)} imports sparse_jax.{target}")
    assert not wrong, "\n".join(wrong)


def test_this_law_can_be_broken(tmp_path):
    """What the rules above look at is what a file imports, wherever in it."""
    (tmp_path / "a.py").write_text("def f():\n    from sparse_jax import lm\n    import optax\n")
    names = imports(tmp_path / "a.py", ("sparse_jax", "search"))
    assert rooms_of(names) == {"lm"} and FLOOR["lm"] >= FLOOR["search"]
    assert any(name == "optax" for name in names)


def files_by_module() -> dict[str, list[str]]:
    """Imports of each module of the package by its dotted name."""
    found = {}
    for _, path, names in modules():
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = names
    return found


def test_no_circles():
    """Between files; a package's own `__init__` gathers what its files are and is left out."""
    names = files_by_module()
    graph = {}
    for module, targets in names.items():
        found = set()
        for target in targets:
            # `from a.b import c`: c may be a module, or a name in a.b.
            known = target if target in names else target.rpartition(".")[0]
            if known in names and known != module and not module.startswith(known + "."):
                found.add(known)
        graph[module] = found
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in sorted(graph[module]):
                walk(target, (*path, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())


def test_only_ops_ask_whether_the_kernels_are_there():
    wrong = [
        str(path.relative_to(ROOT))
        for room, path, names in modules()
        if room != "ops"
        and (
            "_kernels" in path.read_text(encoding="utf-8")
            or any(name.startswith("sparse_jax.ops.ffi") for name in names)
        )
    ]
    assert not wrong


@pytest.mark.parametrize("library", ONLY)
def test_who_knows_a_library(library):
    wrong = [
        str(path.relative_to(ROOT))
        for module, path, names in modules()
        if module not in ONLY[library] and any(n.split(".")[0] == library for n in names)
    ]
    assert not wrong, f"only {sorted(ONLY[library])} may import {library}"


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
            assert name.startswith("handlers/")
