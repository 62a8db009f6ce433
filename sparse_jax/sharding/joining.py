"""Where the processes of a run are: as arguments say, `sparse-jax launch`, Open MPI or Slurm.

What is given wins, field by field; the rest comes from the first of these that the environment
names. Nothing here opens a port for longer than it takes to see whether it is free.
"""

from __future__ import annotations

import os
import socket
from typing import NamedTuple

ENVIRONMENT = {
    "coordinator": "SPARSE_JAX_COORDINATOR",
    "processes": "SPARSE_JAX_PROCESSES",
    "process": "SPARSE_JAX_PROCESS",
}
"""What `sparse-jax launch` sets."""

_OPEN_MPI = ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
_URI = "OMPI_MCA_orte_hnp_uri"  # of mpirun, before Open MPI 5
_OPEN_MPI_SETS = (*_OPEN_MPI, _URI)
_STEP = "SLURM_STEP_NODELIST"  # srun sets it, sbatch by itself does not
_SLURM_SETS = ("SLURM_JOB_ID", _STEP, "SLURM_PROCID")
_ALONE = "or give --processes 1 to run one process alone"
_START = f"start the command by it, {_ALONE}"


class Place(NamedTuple):
    """A process among those of its run; `find` makes it."""

    coordinator: str | None  # HOST:PORT of process 0; None if there is but one process
    processes: int
    process: int
    device: int | None = None  # which of the machine's accelerators is this process's
    link: str | None = None  # another machine's address, where process 0's was not given


class _Named(NamedTuple):
    """What an environment says."""

    processes: int
    process: int
    coordinator: str | None  # None: it does not say
    device: int | None = None
    link: str | None = None


def find(coordinator: str | None, processes: int | None, process: int | None) -> Place:
    """This process's place.

    Args:
      coordinator: "HOST:PORT" of process 0; None: from the environment.
      processes: how many; None: from the environment, or one.
      process: which one this is; None: from the environment.

    Raises:
      ValueError: if the arguments or the environment don't fit together.

    Example:
      >>> find(None, 1, None).processes
      1
    """
    named = link = None
    if processes != 1 and None in (coordinator, processes, process):
        named = _launched() or _open_mpi(coordinator) or _slurm(coordinator)
    if named is not None:
        processes = named.processes if processes is None else processes
        process = named.process if process is None else process
        if coordinator is None:
            coordinator, link = named.coordinator, named.link
    if processes is not None and processes < 1:
        raise ValueError(f"processes = {processes}: must be at least 1")
    if processes is None and (coordinator is not None or process is not None):
        raise ValueError("processes = None: must be how many there are, the same everywhere")
    if processes is None or processes == 1:
        return Place(None, 1, 0)
    if coordinator is None:
        raise ValueError("coordinator = None: must be HOST:PORT of process 0, the same everywhere")
    if process is None or not 0 <= process < processes:
        raise ValueError(f"process = {process}: must be from 0 to {processes - 1}, each once")
    split_address(coordinator)
    device = None if named is None else named.device
    return Place(coordinator, processes, process, device, link)


def addresses(place: Place) -> tuple[str, str]:
    """(HOST:PORT of process 0, the address of this machine that the others reach).

    Args:
      place: of one process among others.

    Raises:
      ValueError: if there is no way to the coordinator; on process 0, if the coordinator's address
        is not this machine's, or its port is taken.
    """
    assert place.coordinator is not None
    host, port = split_address(place.coordinator)
    own = _facing(host, port)
    if place.link and (own.startswith("127.") or own == "::1"):
        # Process 0's machine, which knows itself by another address than the others know.
        host = own = _facing(place.link, port)
    if place.process == 0:
        host = own = _listens(host, port)
    return join_address(host, port), own


def split_address(coordinator: str) -> tuple[str, int]:
    """(HOST, PORT), brackets of an IPv6 address taken off."""
    host, _, port = coordinator.rpartition(":")
    if not host or not _is_port(port):
        raise ValueError(f"coordinator = {coordinator!r}: must be HOST:PORT, as 192.168.1.10:8476")
    return host.strip("[]"), int(port)


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) < 65536


def join_address(host: str, port: int) -> str:
    """HOST:PORT, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _facing(host: str, port: int) -> str:
    """The address of this machine that a host sees; nothing is sent to find it."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(where)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise ValueError(
            f"coordinator = {host}:{port}: must be an address that this machine reaches ({error})"
        ) from None


def _listens(host: str, port: int) -> str:
    """The address of a host, at which this machine can listen."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # Not what a run has left behind that ended a moment ago, but what listens now.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            return str(where[0])
    except OSError as error:
        raise ValueError(
            f"coordinator = {host}:{port}: must be an address of process 0's machine, which this "
            f"is, and a free port ({error}); give --coordinator HOST:PORT"
        ) from None


def _whole(source: str, name: str, cure: str) -> int:
    """A variable that has to be a whole number."""
    value = os.environ.get(name)
    if value is None or not value.isdecimal():
        raise ValueError(f"{name} = {value!r}: must be a whole number, as {source} sets it; {cure}")
    return int(value)


def _launched() -> _Named | None:
    if not any(name in os.environ for name in ENVIRONMENT.values()):
        return None
    source, cure = "sparse-jax launch", "set all three, " + ", ".join(ENVIRONMENT.values())
    processes, process = (_whole(source, ENVIRONMENT[n], cure) for n in ("processes", "process"))
    coordinator = os.environ.get(ENVIRONMENT["coordinator"])
    if coordinator is None:
        raise ValueError(f"{ENVIRONMENT['coordinator']} = None: must be HOST:PORT; {cure}")
    return _Named(processes, process, coordinator)


def _open_mpi(given: str | None) -> _Named | None:
    """Of `mpirun`; the versions from 5 on do not say where it runs."""
    if not any(name in os.environ for name in _OPEN_MPI_SETS):
        return None
    processes, process = (_whole("mpirun", name, _START) for name in _OPEN_MPI)
    coordinator = None
    if given is None and _URI in os.environ:
        from jax._src.clusters import OmpiCluster

        coordinator = _read_address(OmpiCluster, _URI)
    elif given is None and processes > 1:
        raise ValueError(
            f"{_URI} = None: must say where mpirun runs, which Open MPI from 5 on does not; give "
            f"--coordinator HOST:PORT of process 0, {_ALONE}"
        )
    return _Named(processes, process, coordinator, _device("OMPI_COMM_WORLD_LOCAL_RANK"))


def _slurm(given: str | None) -> _Named | None:
    """Of a step of `srun`; a step of one process, such as a shell, is alone."""
    if "SLURM_JOB_ID" not in os.environ and _STEP not in os.environ:
        return None
    count = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in os.environ else "SLURM_NTASKS"
    # One that is not the first is not alone, whatever the environment has lost.
    is_first = os.environ.get("SLURM_PROCID", "0") == "0"
    if os.environ.get(count, "1" if is_first else "") == "1":
        return None
    for name in _SLURM_SETS:
        if not os.environ.get(name):
            raise ValueError(
                f"{name} = {os.environ.get(name)!r}: must be set, as srun does for the tasks of a "
                f"job; start the command by srun, {_ALONE}"
            )
    processes, process, _ = (
        _whole("srun", name, _START) for name in (count, "SLURM_PROCID", "SLURM_JOB_ID")
    )
    from jax._src.clusters import SlurmCluster

    return _Named(
        processes,
        process,
        given or _read_address(SlurmCluster, _STEP),
        _device("SLURM_LOCALID"),
        os.environ.get("SLURM_LAUNCH_NODE_IPADDR") if _many_machines() else None,
    )


def _many_machines() -> bool:
    return os.environ.get("SLURM_STEP_NUM_NODES", os.environ.get("SLURM_NNODES", "1")) != "1"


def _device(name: str) -> int | None:
    text = os.environ.get(name, "")
    if "JAX_LOCAL_DEVICE_IDS" in os.environ or not text.isdecimal():
        return None  # JAX reads that one by itself
    return int(text)


def _read_address(cluster: type, variable: str) -> str:
    """The coordinator as JAX reads it of the environment, JAX_COORDINATOR_PORT included."""
    try:
        port = os.environ.get("JAX_COORDINATOR_PORT")
        found = cluster.get_coordinator_address(  # type: ignore[attr-defined]
            timeout_secs=None, override_coordinator_port=port
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"{variable} = {os.environ[variable]!r}: must name process 0's machine ({error}); give "
            "--coordinator HOST:PORT of it"
        ) from None
    host, _, chosen = found.rpartition(":")
    if not _is_port(chosen):
        raise ValueError(
            f"JAX_COORDINATOR_PORT = {port!r}: must be from 1 to 65535; leave it out for one "
            "of the job's number"
        )
    return join_address(host, int(chosen))
