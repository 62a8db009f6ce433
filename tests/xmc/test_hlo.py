"""Nothing in the compiled step costs O(N·d): reads what XLA made of it.

An array of more elements than N may pass through, be gathered from and be scattered into in place,
or be changed in place by a kernel of ours; nothing else may make one or read one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest
import synthetic

from sparse_jax import optim
from sparse_jax.ops import ffi
from sparse_jax.optim import fused as fused_module
from sparse_jax.xmc import step as training

FEATURES, LABELS, HIDDEN, BATCH, ACTIVE = 50_000, 60_000, 32, 16, 256
LIMIT = LABELS  # elements; a score for each row is allowed, the tables and logits are not

# Carry an array without looking into it. The computations that these call are checked themselves.
CARRY = {
    "bitcast",
    "call",
    "conditional",
    "fusion",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "tuple",
    "while",
}
IN_PLACE = {"dynamic-update-slice", "scatter"}
READ_SOME = {"dynamic-slice", "gather"}


class Instruction(NamedTuple):
    opcode: str
    elements: int  # of the largest array of the result
    operands: list[str]
    line: str


def _elements(shape: str) -> int:
    largest = 0
    for dims in re.findall(r"[a-z]\w*\[([\d,<=]*)\]", shape):
        size = 1
        for dim in filter(None, dims.split(",")):
            size *= int(dim.strip("<="))
        largest = max(largest, size)
    return largest


def _closing(text: str) -> int:
    """Index behind the parenthesis that closes the one at 0."""
    depth = 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0:
            return i + 1
    raise AssertionError(f"unbalanced: {text}")


def parse(hlo: str) -> list[dict[str, Instruction]]:
    """Instructions by name, for each computation."""
    computations: list[dict[str, Instruction]] = []
    for line in hlo.splitlines():
        if line.endswith("{") and not line.startswith((" ", "HloModule")):
            computations.append({})
        match = re.match(r"\s+(?:ROOT )?(%\S+) = (.*)", line)
        if not match:
            continue
        name, rest = match.groups()
        end = _closing(rest) if rest.startswith("(") else rest.index(" ")
        shape, rest = rest[:end], rest[end:].lstrip()
        opcode = rest[: rest.index("(")]
        inside = rest[len(opcode) :]
        operands = re.findall(r"%[\w.\-]+", inside[: _closing(inside)])
        computations[-1][name] = Instruction(opcode, _elements(shape), operands, line.strip())
    assert sum(map(len, computations)) > 100, "the text of the module was not understood"
    return computations


def offences(compiled: Any, limit: int = LIMIT) -> list[str]:
    """Instructions that make, or read through, an array of more than `limit` elements."""
    found = []
    for computation in parse(compiled.as_text()):
        for item in computation.values():
            if item.opcode in CARRY | IN_PLACE:
                continue
            reads = max(
                (computation[o].elements for o in item.operands if o in computation), default=0
            )
            own_kernel = 'custom_call_target="sparse_jax_' in item.line
            # Ours make large arrays only in the place of an operand.
            aliased = own_kernel and "output_to_operand_aliasing" in item.line
            if (item.elements > limit and not aliased) or (
                reads > limit and item.opcode not in READ_SOME and not own_kernel
            ):
                found.append(f"{item.opcode}: {item.line[:200]}")
    return found


def excess(compiled: Any, *, weight: int = 4) -> list[str]:
    """What the compiler's own accounts say is too large; `weight` is the bytes of one."""
    memory, flops = compiled.memory_analysis(), compiled.cost_analysis()["flops"]
    table = LABELS * HIDDEN
    tables = (LABELS + FEATURES) * HIDDEN * (weight + 2 * 4)  # parameters and Adam's two slots
    checks = [
        # Some int32 for each row, less than a third of one table.
        ("temp", memory.temp_size_in_bytes, 10 * 4 * LABELS),
        ("flops", flops, 24 * BATCH * ACTIVE * HIDDEN),
    ]
    assert 10 * 4 * LABELS < table * 4 / 3 and 24 * BATCH * ACTIVE * HIDDEN < 2 * table
    found = [f"{name} = {value:,} > {most:,}" for name, value, most in checks if value > most]
    if memory.alias_size_in_bytes < tables:
        found.append(f"aliased = {memory.alias_size_in_bytes:,} < {tables:,}")
    return found


@functools.cache
def compile_step(
    *,
    donate: bool = True,
    fused: bool = False,
    row_scale: bool = False,
    dtype: Any = jnp.float32,
    **options: Any,
) -> Any:
    mode = options.setdefault("mode", "shared")
    options.setdefault("active", ACTIVE if mode == "shared" else ACTIVE // BATCH)
    config = training.Config(distinct_features=512, max_labels=4, **options)
    adam = optax.adam(1e-3)
    tx = adam if config.strategy == "dense" else optim.rowwise(adam)
    tx = fused_module.adam(1e-3) if fused else tx
    tx = optim.row_scale(1e-3) if row_scale else tx
    points = synthetic.make_data(BATCH, num_features=FEATURES, num_labels=LABELS)
    sizes = {"hidden": HIDDEN, "dtype": dtype}
    state = jax.eval_shape(lambda: synthetic.start(points, tx, config=config, **sizes))
    (batch,) = synthetic.make_batches(points, BATCH)
    step = jax.jit(training.make_step(tx, config=config), donate_argnums=0 if donate else ())
    # XLA's instructions are those of level 3; what LLVM makes of them is neither read nor run.
    return step.lower(state, batch).compile({"xla_backend_optimization_level": 0})


STEPS = {
    "lsh": {"strategy": "lsh"},
    "lsh, corrected": {"strategy": "lsh", "correction": "lsh", "loss": "bce"},
    "lsh, per example": {"strategy": "lsh", "mode": "per_example", "active": 32},
    "uniform": {"strategy": "uniform"},
    "fused": {"strategy": "lsh", "fused": True},
    "bfloat16": {"strategy": "lsh", "fused": True, "dtype": jnp.bfloat16},
    "row scale": {"strategy": "uniform", "row_scale": True},
}


needs_kernels = pytest.mark.skipif(
    not ffi.AVAILABLE, reason="the fallback counts all rows, and widens bfloat16 tables"
)
ACCOUNTED = {"lsh", "lsh, corrected", "fused", "bfloat16"}
QUICK = {"lsh", "uniform", "bfloat16"}  # the others, a second of compiling each, are slow


def steps(names: Iterable[str], need_kernels: Iterable[str] = ()) -> list[Any]:
    marks = {n: [needs_kernels] * (n in need_kernels) for n in names}
    slow = pytest.mark.slow
    return [pytest.param(n, marks=[*m, *([] if n in QUICK else [slow])]) for n, m in marks.items()]


@pytest.mark.parametrize("name", steps(STEPS, {"bfloat16"}))
def test_no_instruction_touches_a_whole_table(name: str) -> None:
    assert offences(compile_step(**STEPS[name])) == []


@pytest.mark.parametrize(
    "name", steps(["uniform", *(n for n in STEPS if n in ACCOUNTED)], ACCOUNTED)
)
def test_memory_and_arithmetic_are_those_of_the_active_rows(name: str) -> None:
    weight = 2 if name == "bfloat16" else 4
    assert excess(compile_step(**STEPS[name]), weight=weight) == []


@pytest.mark.parametrize("name", steps(STEPS))
def test_no_python_in_the_step(name: str) -> None:
    hlo = compile_step(**STEPS[name]).as_text()
    targets = set(re.findall(r'custom_call_target="([^"]*)"', hlo))
    assert {t for t in targets if not t.startswith("sparse_jax_")} <= {"TopK"}
    assert "callback" not in hlo and "infeed" not in hlo and "outfeed" not in hlo


def test_the_check_can_fail() -> None:
    dense = compile_step(strategy="dense")
    kinds = {offence.split(":")[0] for offence in offences(dense)}
    assert {"dot", "multiply", "sqrt"} <= kinds
    assert {text.split(" ")[0] for text in excess(dense)} == {"temp", "flops"}


def test_a_step_without_donation_is_flagged() -> None:
    copying = compile_step(strategy="uniform", donate=False)
    copies = [o for o in offences(copying) if o.startswith("copy")]
    assert len(copies) >= 6  # two tables, each with Adam's two slots
    assert "aliased" in " ".join(excess(copying))


def test_reading_a_whole_table_is_flagged() -> None:
    """A sum over the rows makes nothing large, but reads it."""
    spec = jax.ShapeDtypeStruct((LABELS, HIDDEN), jax.numpy.float32)

    def sums(x: jax.Array) -> Any:
        for _ in range(40):  # enough instructions for `parse` to believe its eyes
            x = x.at[0].add(1.0)
        return x.sum(axis=0)

    assert any("reduce" in o for o in offences(jax.jit(sums).lower(spec).compile()))
