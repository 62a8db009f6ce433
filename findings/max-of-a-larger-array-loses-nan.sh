#!/usr/bin/env bash
# jnp.max and jnp.min of 4,096 numbers or more lose NaN on the CPU; of fewer they keep it.
#
# Versions: jax and jaxlib 0.10.2 (Python 3.11, x86-64, one CPU device). jax 0.12 does the same.
# One would expect: NaN in gives NaN out, as NumPy's max does, and as jnp.max does for small arrays;
#   jnp.nanmax is there to leave NaN out. And the size of an array changes no meaning.
# What happens: from 4,096 float32 on, the maximum of an array with a NaN is that of the others; of
#   nothing but NaN it is -inf. jnp.min, lax.reduce_max, the maximum norm and maxima along an axis
#   of such an array do the same, inside jit and out, with one thread and with more. cummax, sort
#   and sums keep NaN.
# So max(abs(weights)), a cheap check of a training loop, passes weights that are all NaN, and it was
#   tried with a small array in its test. A sum tells: sum(0 * weights) == 0.
# Found nowhere in the documentation: that of jax.numpy.max refers to numpy.max.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import jax
import jax.numpy as jnp
import numpy as np


def weights(*shape):
    """Zeros, and one NaN in the middle."""
    made = np.zeros(shape, np.float32)
    made.flat[made.size // 2] = np.nan
    return jnp.asarray(made)


for size in (100, 4095, 4096, 100_000):
    w = weights(size)
    print(f"{size} numbers, one NaN: max {jnp.max(w)}, NumPy's {np.max(np.asarray(w))}")
w = weights(100_000)
print("min", jnp.min(w), "| inf norm", jnp.linalg.norm(w, jnp.inf), "| in jit", jax.jit(jnp.max)(w))
print("cummax", jax.lax.cummax(w)[-1], "| sort", jnp.sort(w)[-1], "| sum", jnp.sum(w))
rows = jnp.max(weights(1000, 300), axis=1)
print("1,000 rows of 300: maxima that are NaN:", int(jnp.sum(jnp.isnan(rows))), "of 1")
print("100,000 NaN and nothing else: max", jnp.max(jnp.full(100_000, jnp.nan)))
PY
seen=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/try.py" 2>/dev/null)
expected="100 numbers, one NaN: max nan, NumPy's nan
4095 numbers, one NaN: max nan, NumPy's nan
4096 numbers, one NaN: max 0.0, NumPy's nan
100000 numbers, one NaN: max 0.0, NumPy's nan
min 0.0 | inf norm 0.0 | in jit 0.0
cummax nan | sort nan | sum nan
1,000 rows of 300: maxima that are NaN: 0 of 1
100,000 NaN and nothing else: max -inf"
printf '%s\n' "$seen"
if [[ $seen != "$expected" ]]; then
  printf 'changed: expected\n%s\n' "$expected" >&2
  exit 1
fi
