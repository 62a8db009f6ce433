#!/usr/bin/env bash
# Orbax, told that another process than 0 is the primary host, saves no NumPy array, and says nothing.
#
# Versions: orbax-checkpoint 0.12.8 with jax and jaxlib 0.10.2 and NumPy 2.4.6 (Python 3.11, x86-64).
# One would expect: two processes of one jax.distributed run that each keep arrays of their own save
#   them into folders of their own with MultiprocessingOptions(primary_host=I, active_processes={I}),
#   "the host id of the primary host" and the processes that take part; each then finds its arrays.
# What happens: on process 0 they are there. On process 1 `save` returns, the checkpoint is finished
#   and marked as a success, and holds names and no numbers: to read it is a NOT_FOUND. The handler of
#   NumPy arrays (and so that of strings) asks whether it is process 0, not whether it is the primary
#   host. JAX's arrays of one process are no way round: those are refused by a ValueError that says so.
# So a run of many processes whose state is per process finds out when it resumes.
# Found nowhere in the documentation: that of MultiprocessingOptions asks only that the primary host be
#   one of the active processes.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
  jax==0.10.2 jaxlib==0.10.2 numpy==2.4.6 orbax-checkpoint==0.12.8
cat > "$folder/try.py" <<'PY'
import os
import socket
import subprocess
import sys

if len(sys.argv) == 2:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, __file__, sys.argv[1], str(process), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for process in range(2)
    ]
    for process in started:
        print(process.communicate()[0], end="")
    sys.exit()

folder, process, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]

import jax
import numpy as np

jax.distributed.initialize(f"127.0.0.1:{port}", 2, process)

import orbax.checkpoint as ocp

alone = ocp.options.MultiprocessingOptions(
    primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process{process}"
)
handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
path = f"{folder}/saved-by-{process}"
with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
    checkpointer.save(path, {"weights": np.arange(1000.0)})
    marked = "commit_success.txt" in os.listdir(path)
    print(f"process {process}: save returned, marked as a success: {marked}")
    try:
        found = checkpointer.restore(path)["weights"]
        print(f"process {process}: restored, equal: {bool((found == np.arange(1000.0)).all())}")
    except ValueError as error:
        print(f"process {process}: {type(error).__name__}: {str(error)[:9]}")
PY
seen=$(JAX_PLATFORMS=cpu "$folder/venv/bin/python" "$folder/try.py" "$folder")
expected="process 0: save returned, marked as a success: True
process 0: restored, equal: True
process 1: save returned, marked as a success: True
process 1: ValueError: NOT_FOUND"
printf '%s\n' "$seen"
if [[ $seen != "$expected" ]]; then
  printf 'changed: expected\n%s\n' "$expected" >&2
  exit 1
fi
