#!/usr/bin/env bash
# A custom PRNG with scalar keys is accepted by JAX, and then no key of it can be made.
#
# Versions: jax and jaxlib 0.10.2 (Python 3.11, CPU).
# One would expect: jax.extend.random.define_prng_impl(key_shape=(), ...) either refuses scalar keys
#   or, like key_shape=(1,), lets jax.random.wrap_key_data make n keys of n numbers: the shape of the
#   data must "end with" key_shape, and every shape ends with ().
# What happens: data of one key are refused since they must have a dimension at least, data of two
#   since their shape must end with (): it is shape[-0:], all of it, that is compared with (). The
#   two errors contradict each other, and none says that key_shape is at fault. It matters to whoever
#   uses JAX's one dtype without arithmetic for ids of rows, which tools that map over pytrees must
#   not add up: key_shape=(1,) is the way.
# Not documented; jax.extend.random says nothing of which key_shape may be given.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import jax
import jax.numpy as jnp
from jax.extend.random import define_prng_impl


def no(*_):
    raise NotImplementedError


def attempt(key_shape, data_shape):
    impl = define_prng_impl(
        key_shape=key_shape, seed=no, split=no, random_bits=no, fold_in=no, name=f"ids{key_shape}"
    )
    try:
        keys = jax.random.wrap_key_data(jnp.zeros(data_shape, jnp.uint32), impl=impl)
        return f"keys of shape {keys.shape}"
    except TypeError as error:
        return f"TypeError: {str(error).split(' for impl')[0]}"


for key_shape, data_shape in (((1,), (2, 1)), ((), ()), ((), (2,))):
    print(f"key_shape={key_shape}, data {data_shape}: {attempt(key_shape, data_shape)}")
PY
seen=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/try.py" 2>/dev/null)
expected="key_shape=(1,), data (2, 1): keys of shape (2,)
key_shape=(), data (): TypeError: JAX encountered invalid PRNG key data: expected key_data.ndim >= 1; got ndim=0
key_shape=(), data (2,): TypeError: JAX encountered invalid PRNG key data: expected key_data.shape to end with (); got shape=(2,)"
printf '%s\n' "$seen"
if [[ $seen != "$expected" ]]; then
  printf 'changed: expected\n%s\n' "$expected" >&2
  exit 1
fi
