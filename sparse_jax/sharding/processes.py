"""Processes of one run: started together, compared first, and ended together.

What runs on devices goes through `jax.distributed`'s collectives, which pair calls by their order
alone. Whatever is compared or exchanged here goes by name through the coordinator's store instead:
a process that disagrees, or is missing, is named.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from sparse_jax.sharding import joining, meeting

LOST = 75
"""Exit status of a process that ends because another one did."""

LATE = 30 * 86_400
"""Seconds to wait for a process that works as long as it needs; one that is gone is missed soon."""

AT_ONCE, BY_HAND = 45, 300
"""Seconds to wait for the others, where all are started together and where someone starts each."""

_HEARTBEAT = 30  # seconds until a process that is gone, and was in no collective, is missed
_PACKAGES = ("jax", "jaxlib", "numpy", "sparse_jax")
_calls: dict[str, int] = {}  # how often each name was used, to tell the uses apart


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    shards: int | None = None,
    options: Any = None,
    timeout: int | None = None,
    tell: Callable[[str], None] | None = None,
) -> None:
    """Joins the processes of a run. Call it first, before JAX has touched a device.

    It compares versions and options of all processes before any of them computes. Nothing that
    they exchange is encrypted. Process 0 listens at the coordinator's address, and each process at
    the address from which it reaches the coordinator, never at all addresses.

    Args:
      coordinator: "HOST:PORT" of process 0. None, as of the next two: what `sparse-jax launch`,
        Open MPI's `mpirun` or Slurm's `srun` have set; or there are no others.
      processes: how many.
      process: which one this is, from 0.
      shards: devices of all processes together, a multiple of `processes`; None: one each.
      options: JSON values that must be the same everywhere, such as a command's arguments.
      timeout: seconds to wait for the others; None: 300 where the three arguments above
        are given, which is by hand; otherwise 45.
      tell: is called with a line that says who is missing, if that takes longer than 5 seconds.

    Raises:
      ValueError: if the arguments or what the environment says don't fit together, or processes
        differ.
      RuntimeError: if not all have come in time; it names those that are missing.

    Example:
      >>> initialize(processes=1)
    """
    if timeout is None:  # who names all three starts each process by hand
        timeout = AT_ONCE if None in (coordinator, processes, process) else BY_HAND
    place = joining.find(coordinator, processes, process)
    processes, process = place.processes, place.process
    shards = processes if shards is None else shards
    if shards < 1 or shards % processes:
        raise ValueError(f"shards = {shards}: must be a multiple of processes, {processes}")
    if shards > 1:
        jax.config.update("jax_num_cpu_devices", shards // processes)
    if processes == 1:
        return
    where, own = joining.addresses(place)
    meeting.meet(joining.split_address(where), processes, process, timeout=timeout, tell=tell)
    try:
        jax.distributed.initialize(
            where,
            processes,
            process,
            None if place.device is None else [place.device],
            "deactivate",  # no second look at the environment: the place is known
            initialization_timeout=AT_ONCE,
            heartbeat_timeout_seconds=_HEARTBEAT,
            coordinator_bind_address=where,
        )
    except Exception as error:
        raise RuntimeError(
            f"coordinator = {where!r}: process {process} of {processes} did not meet the "
            f"others in {AT_ONCE} s; start all of them, and let them reach this port "
            f"({str(error).splitlines()[0][:200]})"
        ) from error
    _listen_at(own)
    agree("versions", {name: importlib.metadata.version(name) for name in _installed()})
    agree("machine", [sys.byteorder, platform.python_implementation()])
    agree("options", [processes, shards, options])


def _listen_at(address: str) -> None:
    """Lets collectives listen at this address: gloo would take what the host's name resolves to,
    which on many machines is a loopback address that others can't reach."""
    from jax._src import distributed, xla_bridge
    from jax._src.lib import _jax

    def client() -> Any:
        before = _threads()
        collectives = _jax.make_gloo_tcp_collectives(
            distributed_client=distributed.global_state.client, hostname=address
        )
        _let_others_finish(_threads() - before)
        return xla_bridge.make_cpu_client(collectives=collectives)

    xla_bridge.register_backend_factory("cpu", client, priority=0, fail_quietly=False)


def _threads() -> set[int]:
    """The threads of this process, by their ids; none where the system doesn't list them."""
    try:
        return {int(name) for name in os.listdir("/proc/self/task")}
    except OSError:
        return set()


def _let_others_finish(threads: set[int]) -> None:
    """Keeps threads from interrupting others when they wake, as SCHED_BATCH does.

    gloo's receiving thread wakes while the sending one holds their lock. It then asks for the lock
    again and again, and on a single core the sender can't go on before the scheduler's slice is
    over: 3 ms an exchange.
    """
    for thread in threads:
        with contextlib.suppress(OSError, AttributeError):
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def _installed() -> list[str]:
    found = []
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            importlib.metadata.version(name)
            found.append(name)
    return found


def _client() -> Any:
    """The coordinator's store; None in a process that is alone."""
    from jax._src import distributed

    return distributed.global_state.client


def here() -> tuple[int, int]:
    """(this process, processes), without touching a device.

    Example:
      >>> here()
      (0, 1)
    """
    from jax._src import distributed

    state = distributed.global_state
    return (0, 1) if state.client is None else (state.process_id, state.num_processes)


def collect(name: str, value: Any, *, timeout: int = 300) -> list[Any]:
    """A value of each process, known to all, as JSON keeps it: integers of any size are exact.

    Args:
      name: what it is; all processes must ask for the same names, each as often as the others.
      value: JSON values.
      timeout: seconds to wait for the others.

    Returns:
      The values in the order of the processes.

    Raises:
      RuntimeError: if a process does not say it in time, or process 0 is gone; it names it.

    Example:
      >>> collect("points", 2**40)
      [1099511627776]
    """
    text = json.dumps(value)
    process, count = here()
    client = _client()
    if client is None:
        return [json.loads(text)]
    turn = _calls[name] = _calls.get(name, -1) + 1
    client.key_value_set(f"sparse_jax/{name}/{turn}/{process}", text)
    found = []
    for other in range(count):
        try:
            key = f"sparse_jax/{name}/{turn}/{other}"
            found.append(json.loads(client.blocking_key_value_get(key, 1000 * timeout)))
        except jax.errors.JaxRuntimeError as error:
            if "UNAVAILABLE" in str(error):  # at once, and whoever was waited for may be well
                raise RuntimeError(
                    f"process 0 of {count} has ended, or can't be reached, before all told their "
                    f"{name!r}; look at what it prints ({str(error).splitlines()[0][:200]})"
                ) from None
            raise RuntimeError(
                f"process {other} of {count} did not tell its {name!r} in {timeout} s: it has "
                f"ended, stands still, or runs something else; look at what it prints ({error})"
            ) from None
    return found


def agree(name: str, value: Any, *, timeout: int = 300) -> None:
    """Refuses to go on where processes differ.

    Args:
      name: what is compared.
      value: JSON values.
      timeout: seconds to wait for the others.

    Raises:
      ValueError: if another process has another value: it names the process and both values.
      RuntimeError: if a process does not say it in time.

    Example:
      >>> agree("seed", 0)
    """
    found = collect(name, value, timeout=timeout)
    for other, theirs in enumerate(found):
        if theirs != found[0]:
            mine, their = _difference(found[0], theirs)
            raise ValueError(
                f"{name} = {their} on process {other}, {mine} on process 0: must be the same on "
                "all; start them with the same versions, arguments and data"
            )


def _difference(one: Any, other: Any) -> tuple[str, str]:
    """What differs of two values, at most."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted(one.keys() | other.keys()):
            if one.get(key) != other.get(key):
                return f"{key} {one.get(key)}", f"{key} {other.get(key)}"
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = [pair for pair in zip(one, other, strict=True) if pair[0] != pair[1]]
        return _difference(*pairs[0])
    return json.dumps(one)[:200], json.dumps(other)[:200]


def barrier(name: str, *, timeout: int = 300) -> None:
    """Waits until all processes are here.

    Args:
      name: of the place in the program, the same on all.
      timeout: seconds.

    Raises:
      RuntimeError: if one does not come in time.

    Example:
      >>> barrier("saved")
    """
    collect(f"barrier {name}", None, timeout=timeout)


def whole(array: jax.Array) -> np.ndarray:
    """All of an array that lies on the devices of many processes, on each of them."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


@contextlib.contextmanager
def hard_exit() -> Iterator[None]:
    """Ends the process at once where something fails, if there are others.

    A process that ends as Python does waits minutes for the others, which wait for it: as soon as
    its connections are closed, they fail too and end, with the status 75.

    Returns:
      A context; around all that a process does, `initialize` included.

    Example:
      >>> with hard_exit():
      ...     pass
    """
    process, count = here()
    try:
        yield
    except BaseException as error:
        process, count = here()
        if count == 1 or (isinstance(error, SystemExit) and not error.code):
            raise
        status = 1
        if isinstance(error, KeyboardInterrupt):
            print(f"process {process}: interrupted", file=sys.stderr)
            status = 130
        elif "Gloo" in str(error):
            what = f"another process has ended, or can't be reached ({str(error)[:300]})"
            print(f"error: process {process} of {count}: {what}", file=sys.stderr)
            status = LOST
        elif isinstance(error, ValueError | OSError | RuntimeError | MemoryError):
            print(f"error: process {process} of {count}: {error}", file=sys.stderr)
        elif not isinstance(error, SystemExit):
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
