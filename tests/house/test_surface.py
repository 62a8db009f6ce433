"""The public surface: how many names, what each says of itself, and README's table of them.

Public is what `__all__` lists: of the package, of each of its rooms, and of each module that one of
them lists. A module in a room's list counts as one name. Docstrings are parsed, not trusted; that
their examples run is `test_doctests.py`'s business.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import sparse_jax

ROOT = Path(__file__).resolve().parents[2]
NEEDS = {"nn": "flax", "search": "bm25s", "sklearn": "sklearn", "summarize": "bm25s"}
MAX_NAMES = 60

# Rules that a public name is excused from, and why.
EXCUSED: dict[str, tuple[str, str]] = {}


def rooms() -> list[str]:
    """The rooms that the package lists, by name."""
    return [n for n in sparse_jax.__all__ if isinstance(value(sparse_jax, n), ModuleType)]


def value(module: ModuleType, name: str) -> Any:
    """What a name stands for; a room that this environment can't import skips the test."""
    if module is sparse_jax and name in NEEDS:
        pytest.importorskip(NEEDS[name])
    return getattr(module, name)


def key(module: ModuleType, name: str) -> Any:
    """What makes two names one: a function that the package repeats from a room."""
    found = value(module, name)
    return found.__name__ if isinstance(found, ModuleType) else (found.__module__, name)


def test_at_most_so_many_names():
    listed = [(sparse_jax, name) for name in sparse_jax.__all__]
    for room in rooms():
        listed += [(value(sparse_jax, room), name) for name in value(sparse_jax, room).__all__]
    names = {key(module, name): f"{module.__name__}.{name}" for module, name in listed}
    assert len(names) <= MAX_NAMES, sorted(names.values())


def public_modules() -> dict[str, ModuleType]:
    """The package, its rooms, and the modules listed in them, at any depth, by dotted name."""
    found: dict[str, ModuleType] = {}

    def walk(module: ModuleType) -> None:
        if module.__name__ in found:
            return
        found[module.__name__] = module
        assert hasattr(module, "__all__"), f"{module.__name__} is public and has no __all__"
        for name in module.__all__:
            if isinstance(value(module, name), ModuleType):
                walk(value(module, name))

    walk(sparse_jax)
    return found


def public_members() -> dict[str, Any]:
    """Each public function, class and constant once, by dotted name."""
    found: dict[str, Any] = {}
    for module in public_modules().values():
        for name in module.__all__:
            member = value(module, name)
            if not isinstance(member, ModuleType):
                home = getattr(member, "__module__", module.__name__)
                found[f"{home}.{getattr(member, '__name__', name)}"] = member
    return found


def test_lists_are_sorted_and_true():
    for module in public_modules().values():
        assert sorted(module.__all__) == sorted(set(module.__all__)), module.__name__
        assert all(hasattr(module, name) for name in module.__all__), module.__name__


# ------------------------------------------------------------------------------------- docstrings

SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example", "Reference", "References")


def sections(docstring: str) -> dict[str, str]:
    """A docstring by its sections; what stands before the first is ""."""
    found, current = {"": ""}, ""
    for line in inspect.cleandoc(docstring).splitlines():
        head = re.match(r"([A-Z][a-z]+):( |$)", line)
        if head and head[1] in SECTIONS:
            current = head[1]
            found[current] = line[head.end() :] + "\n"
        else:
            found[current] += line + "\n"
    return found


def arguments(function: Callable[..., Any]) -> list[str]:
    """Its parameters by name, but for self and cls."""
    parameters = inspect.signature(function).parameters
    return [name for name in parameters if name not in ("self", "cls") and name[0] != "_"]


def is_array(annotation: Any) -> bool:
    return bool(re.search(r"\b(jax\.Array|np\.ndarray)\b", str(annotation)))


def raises(function: Callable[..., Any]) -> bool:
    """Whether its own lines raise, or call one of our checks."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and node.exc is not None:
            return True
        if isinstance(node, ast.Call) and re.match(
            "_?check", ast.unparse(node.func).rpartition(".")[2]
        ):
            return True
    return False


def faults_of_function(function: Callable[..., Any], *, example: bool) -> Iterator[str]:
    parts = sections(function.__doc__ or "")
    if not parts[""].strip():
        yield "says nothing"
        return
    told = parts.get("Args", "")
    for argument in arguments(function):
        entry = re.search(
            rf"^\s+(?:\*{{0,2}}\w+, )*\*{{0,2}}{argument}(?:, \w+)*: (.*(?:\n +.*)*)", told, re.M
        )
        if not entry:
            yield f"Args lacks {argument}"
        elif is_array(inspect.signature(function).parameters[argument].annotation):
            line = entry[1]
            if "[" not in line and not re.search(r"\bkey\b", argument + line, re.I):
                yield f"Args gives no shape of {argument}"
    returned = inspect.signature(function).return_annotation
    if returned not in (None, "None", inspect.Signature.empty) and "Returns" not in parts:
        yield "has no Returns"
    if is_array(returned) and "[" not in parts.get("Returns", "["):
        yield "Returns gives no shape"
    if raises(function) and "Raises" not in parts:
        yield "raises and has no Raises"
    if example and ">>>" not in parts.get("Example", ""):
        yield "has no Example"


def fields_without_shape(kind: type) -> Iterator[str]:
    """Array fields of a dataclass or NamedTuple whose comment or entry has no shape."""
    source = inspect.getsource(kind)
    told = sections(kind.__doc__ or "")
    told_of = told.get("Attributes", "") + told.get("Args", "")
    for field, annotation in inspect.get_annotations(kind).items():
        entry = re.search(rf"^\s+{field}: (.*(?:\n +.*)*)", told_of, re.M)
        comment = re.search(rf"^    {field}: [^#\n]*#(.*)", source, re.M)
        text = entry[1] if entry else comment[1] if comment else ""
        array = is_array(annotation) and "Callable" not in str(annotation)
        if array and "[" not in text and "key" not in field:
            yield f"gives no shape of {field}"


def faults_of_class(kind: type, makers: set[str]) -> Iterator[str]:
    parts = sections(kind.__doc__ or "")
    if not parts[""].strip():
        yield "says nothing"
        return
    # What functions make and callers don't names one of them, whose example shows it.
    made = makers & set(re.findall(r"`(?:\w+\.)*(\w+)`", parts[""].split("\n\n")[0]))
    if dataclasses.is_dataclass(kind) or hasattr(kind, "_fields"):
        yield from fields_without_shape(kind)
    elif not made:
        for argument in arguments(kind.__init__):
            if not re.search(rf"^\s+{argument}: ", parts.get("Args", ""), re.M):
                yield f"Args lacks {argument}"
    if not made and ">>>" not in parts.get("Example", ""):
        yield "has no Example"
    for method, function in vars(kind).items():
        if method.startswith("_") or not callable(getattr(kind, method)):
            continue
        unwrapped = getattr(function, "__func__", function)
        if inspect.isfunction(unwrapped):
            for fault in faults_of_function(unwrapped, example=False):
                yield f".{method} {fault}"


def faults(member: Any, makers: set[str]) -> list[str]:
    if inspect.isclass(member):
        return list(faults_of_class(member, makers))
    if callable(member):
        return list(faults_of_function(member, example=True))
    return []  # a constant


def test_every_public_name_explains_itself():
    members = public_members()
    makers = {n.rpartition(".")[2] for n, m in members.items() if inspect.isroutine(m)}
    wrong = []
    for name, member in sorted(members.items()):
        found = faults(member, makers)
        rule, _ = EXCUSED.get(name, ("", ""))
        wrong += [f"{name} {fault}" for fault in found if not rule or rule not in fault]
        if rule:
            assert any(rule in fault for fault in found), f"{name} needs no excuse any more"
    assert not wrong, "\n" + "\n".join(wrong)


def good(x: np.ndarray, *, k: int = 1) -> np.ndarray:
    """The first rows.

    Args:
      x: float [n, d].
      k: how many.

    Returns:
      float [k, d].

    Raises:
      ValueError: if k is below 1.

    Example:
      >>> good(np.ones((3, 2))).shape
      (1, 2)
    """
    if k < 1:
        raise ValueError(f"k = {k}: must be at least 1")
    return x[:k]


@pytest.mark.parametrize(
    ("cut", "fault"),
    [
        ("", None),
        ("  k: how many.\n", "Args lacks k"),
        (" [n, d]", "Args gives no shape of x"),
        (" [k, d]", "Returns gives no shape"),
        ("Returns:\n", "has no Returns"),
        ("Raises:\n", "raises and has no Raises"),
        (">>> ", "has no Example"),
    ],
)
def test_each_rule_can_be_broken(cut: str, fault: str | None):
    whole = inspect.getdoc(good)  # without the margin, which Python 3.13 takes off itself
    assert whole is not None and cut in whole
    rest = whole.replace(cut, "", 1)
    broken = functools.wraps(good)(lambda x, *, k=1: x)
    broken.__doc__ = rest
    assert ([fault] if fault else []) == [f for f in faults(broken, set()) if fault in (None, f)]


# ---------------------------------------------------------------------------------- README's table


def table() -> dict[str, list[str]]:
    """README's table of the public surface: names by module."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = text.split("## The public surface", 1)[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \|", part, re.M)
    assert len({module for module, _ in rows}) == len(rows)
    return {module: re.findall(r"`([\w.]+)`", names) for module, names in rows}


def test_readme_lists_exactly_what_is_public():
    public = {"sparse_jax": [n for n in sparse_jax.__all__ if n not in rooms()]}
    for room in rooms():
        public[f"sparse_jax.{room}"] = list(value(sparse_jax, room).__all__)
    assert {m: sorted(n) for m, n in table().items()} == {m: sorted(n) for m, n in public.items()}
