"""How long importing takes beside JAX's own import, in processor time of a process of its own."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import time
import jax, jax.numpy, jax.ffi
began = time.process_time()
import sparse_jax as sj
bare = time.process_time() - began
sj.rowwise, sj.layers, sj.retrieval
print(bare, time.process_time() - began, "optax" in __import__("sys").modules)
"""


def test_importing_takes_half_a_second_at_most_beside_jax():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    bare, rooms, with_optax = done.stdout.split()
    assert float(bare) < 0.05  # nothing is imported before it is asked for
    assert float(rooms) < 0.5 and with_optax == "True"
