#!/usr/bin/env bash
# jnp.asarray of a NumPy array compiles an XLA program for every new shape.
#
# Versions: jax and jaxlib 0.10.2 (Python 3.11, CPU).
# One would expect: jnp.asarray(numpy_array) moves bytes to the device, as jax.device_put does; the
#   documentation of jnp.asarray speaks of converting an object to an array, not of compiling.
# What happens: each shape (and dtype) seen for the first time compiles a program named "stage", 4 to
#   15 ms on a laptop's core. Code that turns host arrays of ever new sizes into JAX arrays, such as
#   a retrieval index that grows, a sparse model that gets new labels, or a CSR matrix read file by
#   file, spends more time on compiling copies than on copying. jax.device_put compiles nothing.
# Found nowhere in the documentation; the programs show with JAX_LOG_COMPILES=1.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import logging
import time

import jax
import jax.numpy as jnp
import numpy as np

compiled = []


class Count(logging.Handler):
    def emit(self, record):
        if "Finished XLA compilation" in record.getMessage():
            compiled.append(record.getMessage())


logging.getLogger("jax").addHandler(Count())
logging.getLogger("jax").propagate = False
jax.config.update("jax_log_compiles", True)


def count(convert, sizes):
    compiled.clear()
    started = time.perf_counter()
    for size in sizes:
        convert(np.zeros(size, np.float32)).block_until_ready()
    return len(compiled), 1e3 * (time.perf_counter() - started) / len(sizes)


count(jnp.asarray, range(10, 12))  # what is compiled once in any program
for name, convert in (("jnp.asarray", jnp.asarray), ("jax.device_put", jax.device_put)):
    programs, ms = count(convert, range(1000, 1020))
    print(f"{name}: 20 new shapes, {programs} programs compiled")
programs, ms = count(jnp.asarray, range(1000, 1020))
print(f"jnp.asarray: the same 20 shapes again, {programs} programs compiled")
PY
seen=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/try.py" 2>/dev/null)
expected="jnp.asarray: 20 new shapes, 20 programs compiled
jax.device_put: 20 new shapes, 0 programs compiled
jnp.asarray: the same 20 shapes again, 0 programs compiled"
printf '%s\n' "$seen"
if [[ $seen != "$expected" ]]; then
  printf 'changed: expected\n%s\n' "$expected" >&2
  exit 1
fi
