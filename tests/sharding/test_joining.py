"""Where processes are, as arguments and environments say: real children that meet, and mistakes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparse_jax import sharding
from sparse_jax.sharding import joining

FIRST = 65535 - 2**12 + 1  # of the ports that JAX chooses by a job's number
SETS = (*joining.ENVIRONMENT.values(), "JAX_COORDINATOR_PORT", "JAX_LOCAL_DEVICE_IDS")
CLUSTERS = ("SLURM_", "OMPI_", "PMIX_")
PROGRAM = """
import os, sys
from sparse_jax import sharding
options = {} if len(sys.argv) < 2 else {"coordinator": sys.argv[1]}
with sharding.hard_exit():
    sharding.initialize(**options, timeout=50)
    import jax
    jax.devices()  # gloo listens from here on
    inodes = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
              if os.path.exists(f"/proc/self/fd/{fd}")}
    hosts = set()
    for family in ("tcp", "tcp6"):
        for line in open(f"/proc/self/net/{family}").read().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                hosts.add(words[1].split(":")[0][-8:])  # of IPv6, too
    found = sharding.processes.collect("place", [jax.process_index(), sorted(hosts)])
    print(jax.process_index(), jax.process_count(), len(jax.devices()), found, flush=True)
"""


@pytest.fixture(autouse=True)
def nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name in SETS or name.startswith(CLUSTERS):
            monkeypatch.delenv(name)


def free_port() -> int:
    """One of those that JAX takes of a cluster's job."""
    for port in range(FIRST + os.getpid() % 2000, 65536):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no port is free")


def slurm(port: int, count: int, process: int, **more: str) -> dict[str, str]:
    """As srun sets it for the tasks of a step on one machine."""
    return {
        "SLURM_JOB_ID": str(2**12 + port - FIRST),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_STEP_NUM_NODES": "1",
        "SLURM_STEP_NUM_TASKS": str(count),
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(process),
        "SLURM_LOCALID": str(process),
    } | more


def open_mpi(port: int, count: int, process: int, **more: str) -> dict[str, str]:
    """As mpirun of Open MPI 4 sets it."""
    return {
        "OMPI_MCA_orte_hnp_uri": f"{(port - FIRST) * 2**12}.0;tcp://127.0.0.1,10.0.0.7:34911",
        "OMPI_COMM_WORLD_SIZE": str(count),
        "OMPI_COMM_WORLD_RANK": str(process),
        "OMPI_COMM_WORLD_LOCAL_RANK": str(process),
    } | more


def mpirun_of_5(port: int, count: int, process: int) -> dict[str, str]:
    """It says no more where it runs; inside a job of Slurm, whose step is mpirun's own."""
    given = open_mpi(port, count, process) | slurm(port + 1, 4, 0)
    del given["OMPI_MCA_orte_hnp_uri"]
    return given


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="needs /proc")
@pytest.mark.parametrize("cluster", [slurm, open_mpi, mpirun_of_5])
def test_processes_of_a_cluster_meet_and_listen_there_alone(cluster: Any) -> None:
    port = free_port()
    given = [f"127.0.0.1:{port}"] if cluster is mpirun_of_5 else []
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *given],
            env=os.environ | cluster(port, 2, process) | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]
    printed = {}
    for process, child in enumerate(started):
        printed[process], _ = child.communicate(timeout=100)
    for process, told in printed.items():
        assert started[process].returncode == 0, printed
        (line,) = (line for line in told.splitlines() if line[:1] == str(process))
        # 0100007F is 127.0.0.1: each listens there, and nowhere else.
        assert line == f"{process} 2 2 [[0, ['0100007F']], [1, ['0100007F']]]"


def found(monkeypatch: pytest.MonkeyPatch, said: dict[str, str], **given: Any) -> joining.Place:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    every = {"coordinator": None, "processes": None, "process": None} | given
    return joining.find(**every)


def test_what_is_given_wins_field_by_field(monkeypatch: pytest.MonkeyPatch) -> None:
    said = slurm(FIRST + 5, 4, 3)
    assert found(monkeypatch, said) == (f"127.0.0.1:{FIRST + 5}", 4, 3, 3, None)
    assert found(monkeypatch, said, processes=1) == (None, 1, 0, None, None)
    assert found(monkeypatch, said, process=0)[:3] == (f"127.0.0.1:{FIRST + 5}", 4, 0)
    assert found(monkeypatch, said, coordinator="h:7")[:3] == ("h:7", 4, 3)
    assert found(monkeypatch, said, coordinator="h:7", processes=9, process=8)[:3] == ("h:7", 9, 8)
    # `sparse-jax launch` in a step of Slurm, and Open MPI's in one.
    monkeypatch.setenv("SPARSE_JAX_COORDINATOR", "here:8")
    monkeypatch.setenv("SPARSE_JAX_PROCESSES", "2")
    assert found(monkeypatch, {"SPARSE_JAX_PROCESS": "1"}) == ("here:8", 2, 1, None, None)
    for name in joining.ENVIRONMENT.values():
        monkeypatch.delenv(name)
    assert found(monkeypatch, open_mpi(FIRST + 9, 2, 1))[:3] == (f"127.0.0.1:{FIRST + 9}", 2, 1)


def test_ports_and_devices_may_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "7000")
    monkeypatch.setenv("JAX_LOCAL_DEVICE_IDS", "0")  # JAX reads it
    place = found(monkeypatch, slurm(FIRST, 2, 1, SLURM_STEP_NODELIST="node[03-5,9],other"))
    assert place == ("node03:7000", 2, 1, None, None)


@pytest.mark.parametrize(
    "said",
    [
        {},
        slurm(FIRST, 1, 0),
        # The shell of an allocation, and a batch script of one task.
        slurm(FIRST, 1, 0, SLURM_NTASKS="4"),
        {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"},
        open_mpi(FIRST, 1, 0),
        {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"},
    ],
)
def test_one_process_is_alone(said: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(monkeypatch, said) == (None, 1, 0, None, None)


def without(said: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in said.items() if key != name}


HALF: list[tuple[dict[str, str], str]] = [
    (
        {"SPARSE_JAX_PROCESSES": "2", "SPARSE_JAX_PROCESS": "0"},
        r"SPARSE_JAX_COORDINATOR = None: must be HOST:PORT; set all three, SPARSE_JAX_COORD",
    ),
    (
        {"SPARSE_JAX_COORDINATOR": "h:1", "SPARSE_JAX_PROCESSES": "two"},
        "SPARSE_JAX_PROCESSES = 'two': must be a whole number, as sparse-jax launch sets it",
    ),
    (
        without(slurm(FIRST, 2, 0), "SLURM_STEP_NODELIST"),
        r"SLURM_STEP_NODELIST = None: must be set, as srun does for the tasks of a job; "
        r"start the command by srun, or give --processes 1",
    ),
    (without(slurm(FIRST, 2, 0), "SLURM_PROCID"), "SLURM_PROCID = None: must be set, as srun"),
    (slurm(FIRST, 2, 0, SLURM_PROCID="x"), "SLURM_PROCID = 'x': must be a whole number"),
    (slurm(FIRST, 2, 0, SLURM_PROCID="²"), "SLURM_PROCID = '²': must be a whole number"),
    (slurm(FIRST, 2, 0, SLURM_STEP_NODELIST=""), "SLURM_STEP_NODELIST = '': must be set"),
    (slurm(FIRST, 2, 2), "process = 2: must be from 0 to 1"),
    (slurm(FIRST, 0, 0), "processes = 0: must be at least 1"),
    # Alone, each process would write over the model of the others.
    ({"SLURM_JOB_ID": "7", "SLURM_PROCID": "1"}, "SLURM_STEP_NODELIST = None: must be set"),
    (
        without(without(slurm(FIRST, 2, 1), "SLURM_STEP_NUM_TASKS"), "SLURM_NTASKS"),
        "SLURM_NTASKS = None: must be a whole number, as srun sets it; start the",
    ),
    (slurm(FIRST, 2, 0, SLURM_JOB_ID="x"), "SLURM_JOB_ID = 'x': must be a whole number"),
    *(
        (said(FIRST, 2, 0, JAX_COORDINATOR_PORT=port), f"JAX_COORDINATOR_PORT = '{port}': must be")
        for said in (slurm, open_mpi)
        for port in ("abc", "70000", "0")
    ),
    (
        without(open_mpi(FIRST, 2, 0), "OMPI_MCA_orte_hnp_uri"),
        "OMPI_MCA_orte_hnp_uri = None: must say where mpirun runs, .*; give --coordinator HOST",
    ),
    (
        without(open_mpi(FIRST, 2, 0), "OMPI_COMM_WORLD_RANK"),
        "OMPI_COMM_WORLD_RANK = None: must be a whole number, as mpirun sets it; start the",
    ),
    (
        open_mpi(FIRST, 2, 0, OMPI_MCA_orte_hnp_uri="4096.0;usock"),
        "OMPI_MCA_orte_hnp_uri = '4096.0;usock': must name process 0's machine",
    ),
]


@pytest.mark.parametrize(("said", "message"), HALF)
def test_half_of_an_environment(
    said: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=message):
        found(monkeypatch, said)


def test_a_coordinator_without_a_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="processes = None: must be how many there are"):
        sharding.initialize("127.0.0.1:1")


def place(coordinator: str, process: int, link: str | None = None) -> joining.Place:
    return joining.Place(coordinator, 2, process, link=link)


def test_process_0_listens_at_its_own_address_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    assert joining.addresses(place(f"localhost:{port}", 0))[0] in (
        f"127.0.0.1:{port}",
        f"[::1]:{port}",
    )
    assert joining.addresses(place(f"127.0.0.1:{port}", 1)) == (f"127.0.0.1:{port}", "127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert joining.addresses(place(f"127.0.0.1:{port}", 1))[1] == "127.0.0.1"
        with pytest.raises(ValueError, match=r"must be an address of process 0's .*give --coord"):
            joining.addresses(place(f"127.0.0.1:{port}", 0))
    with pytest.raises(ValueError, match=r"must be an address of process 0's machine"):
        joining.addresses(place(f"203.0.113.9:{port}", 0))  # of nobody: RFC 5737


def test_a_machine_that_knows_itself_by_a_loopback_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Debian writes it in /etc/hosts: on the others, the name means another address."""
    known = {"node1": "127.0.1.1", "10.0.0.9": "10.0.0.1"}
    monkeypatch.setattr(joining, "_facing", lambda host, port: known.get(host, host))
    monkeypatch.setattr(joining, "_listens", lambda host, port: known.get(host, host))
    for process in (0, 1):
        there = place("node1:7000", process, link="10.0.0.9")
        assert joining.addresses(there) == ("10.0.0.1:7000", "10.0.0.1")
    assert joining.addresses(place("node1:7000", 0)) == ("127.0.1.1:7000", "127.0.1.1")
    link = slurm(FIRST, 2, 0, SLURM_STEP_NUM_NODES="2", SLURM_LAUNCH_NODE_IPADDR="10.0.0.9")
    assert found(monkeypatch, link).link == "10.0.0.9"
    assert found(monkeypatch, link, coordinator="node1:7").link is None
