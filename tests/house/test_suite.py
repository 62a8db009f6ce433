"""What keeps a test from passing without testing, read from the tests' source."""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import quickly
from jax._src import compiler

ROOT = Path(__file__).resolve().parents[2]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
OURS = {"sparse_jax"} | {
    path.stem for folder in ("scripts", "tests") for path in (ROOT / folder).rglob("*.py")
}


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path)))


def called(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def wanted(path: Path, given: ast.expr) -> list[str]:
    """The modules that `importorskip` may be given: a text, or an entry of a table of texts."""
    if isinstance(given, ast.Subscript):
        tables = [
            node.value
            for node in nodes(path)
            if isinstance(node, ast.Assign)
            and ast.unparse(node.targets[0]) == ast.unparse(given.value)
        ]
        return [str(value) for table in tables for value in ast.literal_eval(table).values()]
    return [given.value] if isinstance(given, ast.Constant) else []


def hidden_by(path: Path) -> list[str]:
    """Ways in which a broken import of ours would become a skip, or pass unseen."""
    found = []
    for node in nodes(path):
        if called(node) == "importorskip":
            names = wanted(path, node.args[0])
            if not names or OURS & {name.split(".")[0] for name in names}:
                found.append(f"{path.name}:{node.lineno}: importorskip of ours, or of what?")
        if isinstance(node, ast.ExceptHandler) and "Import" in ast.dump(node.type or node):
            found.append(f"{path.name}:{node.lineno}: except ImportError")
        if isinstance(node, ast.ExceptHandler) and "ModuleNotFound" in ast.dump(node.type or node):
            found.append(f"{path.name}:{node.lineno}: except ModuleNotFoundError")
    return found


def test_a_broken_import_of_ours_is_an_error_and_no_skip():
    assert [line for path in TESTS for line in hidden_by(path)] == []


@pytest.mark.parametrize(
    "code",
    [
        "pytest.importorskip('sparse_jax.lm')",
        "importorskip('compare')",
        "pytest.importorskip(name)",
        "NEEDS = {'a': 'flax', 'b': 'compare'}\npytest.importorskip(NEEDS[name])",
        "try:\n    import a\nexcept ImportError:\n    a = None",
    ],
)
def test_this_rule_can_be_broken(tmp_path, code):
    (tmp_path / "a.py").write_text(code)
    assert len(hidden_by(tmp_path / "a.py")) == 1


def test_thread_counts_are_set_in_one_place():
    """What is compiled for one number of threads must not serve another."""
    wrong = [
        path.name
        for path in TESTS
        if path.name not in ("threads.py", Path(__file__).name)
        for node in nodes(path)
        if (isinstance(node, ast.Constant) and node.value == "NPROC")
        or (isinstance(node, ast.keyword) and node.arg == "NPROC")
    ]
    assert not wrong, "use threads.environment, or the mark `threads`"


def test_what_is_compiled_quickly_is_compiled_as_ever_after():
    def options() -> tuple[object, object]:
        found = compiler.get_compile_options(1, 1)
        level = found.executable_build_options.debug_options.xla_backend_optimization_level
        return found.env_option_overrides, level

    usual = options()
    with quickly.compiled(optimized=True):
        assert options() == (list(quickly.without_fusion_emitters().items()), usual[1])
    with pytest.raises(KeyError), quickly.compiled():
        assert options() == (list(quickly.without_fusion_emitters().items()), 0)
        raise KeyError
    assert options() == usual != ([], 0)


def test_parameters_are_the_same_in_each_worker():
    """gzip writes the time of day, which names tests differently where bytes are parameters."""
    wrong = [
        f"{path.name}:{call.lineno}"
        for path in TESTS
        for mark in nodes(path)
        if isinstance(mark, ast.Call) and getattr(mark.func, "attr", "") == "parametrize"
        for call in ast.walk(mark)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "gzip.compress"
        if not any(keyword.arg == "mtime" for keyword in call.keywords)
    ]
    assert not wrong, "give gzip.compress mtime=0"


def test_ci_runs_rooms_without_kernels_and_the_browser():
    ci = (ROOT / ".ci" / "run").read_text()
    pure = ci[ci.index("SPARSE_JAX_PURE=1 python -m pytest") :]
    for room in ("ops", "rows", "retrieval", "layers", "optim", "data", "xmc"):
        assert f"tests/{room}" in pure
    assert "SPARSE_JAX_REQUIRE_BROWSER=1" in ci


def test_ci_installs_the_wheel_and_runs_the_newest_jax():
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.index("auditwheel repair") < ci.index(
        'CC=false CXX=false pip install --quiet "$wheel'
    )
    assert "\nscripts/ci-newest\n" in ci
    for name in ("ci-newest", "ci-matrix", "ci-python", "ci-arm64", "release"):
        script = ROOT / "scripts" / name
        assert script.stat().st_mode & 0o111, name
        done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
