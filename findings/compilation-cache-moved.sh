#!/usr/bin/env bash
# A persistent compilation cache that was moved or copied misses every entry, on the CPU too.
#
# Versions: jax and jaxlib 0.10.2 (Python 3.11, CPU).
# One would expect: the key of an entry depends on the program, the versions, the options and the
#   device. A cache that was copied whole (baked into an image, restored by a CI job into another
#   folder, reached by another mount) then serves the same programs on the same machine.
# What happens: by default JAX sets an option of XLA for GPUs to a folder inside the cache's own, and
#   serializes it into every entry's key; the CPU's are no exception. In the copy each program is
#   compiled again, and stored a second time beside the old entry. Nothing is said. With
#   jax_persistent_cache_enable_xla_caches set to "none" the copy serves all.
# Undocumented: the page on the compilation cache describes the option as one that turns further
#   caches on, and says nothing of keys or of the folder's name.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6
cat > "$folder/try.py" <<'PY'
import sys

import jax

jax.config.update("jax_compilation_cache_dir", sys.argv[1])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
if len(sys.argv) > 2:
    jax.config.update("jax_persistent_cache_enable_xla_caches", sys.argv[2])
import jax.numpy as jnp
import numpy as np

jax.jit(lambda x: jnp.sin(x) @ x)(np.ones(8, np.float32)).block_until_ready()
PY
count() { find "$1" -name '*-cache' | wc -l; }
try() { JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/try.py" "$@" 2>/dev/null; }

seen=$(
  for setting in "" none; do
    first=$folder/first$setting copied=$folder/copied$setting
    try "$first" $setting
    cp -r "$first" "$copied"
    before=$(count "$copied")
    try "$first" $setting
    try "$copied" $setting
    echo "${setting:-default}: $before entries; after the same program again $(count "$first")," \
      "in a copy of the folder $(count "$copied")"
  done
)
expected="default: 1 entries; after the same program again 1, in a copy of the folder 2
none: 1 entries; after the same program again 1, in a copy of the folder 1"
printf '%s\n' "$seen"
if [[ $seen != "$expected" ]]; then
  printf 'changed: expected\n%s\n' "$expected" >&2
  exit 1
fi
