"""Machines made of network namespaces, and links of a given rate and delay between them, as root.

A machine is a namespace with one interface, eth0. Without a delay it is an end of a veth pair on a
bridge, with `tbf` on both sides of it. With one it is a TUN device, and a program of ours passes
packets on when their time has come: kernels without netem can't. That program takes processor time
of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import heapq
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_IFF_TUN, _IFF_NO_PI, _TUNSETIFF = 0x1, 0x1000, 0x400454CA
_CLONE_NEWNET = 0x40000000
_MTU = 1500
_TUN_MTU = 65_000  # fewer packets for a program to pass on
_LARGEST = 1 << 16


class Shaped(NamedTuple):
    """A link as it is asked for."""

    name: str
    gbit: float
    delay: float = 0.0  # seconds, one way


LINKS = {
    link.name: link
    for link in (
        Shaped("10 Gbit/s", 10),
        Shaped("1 Gbit/s", 1),
        Shaped("1 Gbit/s, 1 ms", 1, 0.001),
    )
}


def address(machine: int) -> str:
    """Of a machine, from 0."""
    return f"10.77.0.{machine + 1}"


def _run(*words: str) -> None:
    subprocess.run(words, check=True)


def _shape(namespace: str, device: str, gbit: float) -> None:
    """At most so fast; the burst is the largest packet, or what flows in a tick of a timer."""
    rate, burst = f"{gbit:g}gbit", f"{max(128, round(gbit * 125))}kb"
    shaper = f"tc -n {namespace} qdisc add dev {device} root tbf rate {rate} burst {burst}"
    _run(*shaper.split(), "latency", "100ms")


@contextlib.contextmanager
def machines(count: int, link: Shaped, *, offload: bool = True) -> Iterator[list[str]]:
    """Namespaces of so many machines, which are gone afterwards.

    Args:
      count: of machines.
      link: of each to a switch.
      offload: whether the kernel hands whole buffers to the interface, as hardware that cuts them
        into packets lets it. Without, its counters are those of packets on a wire.

    Yields:
      Their names, for `ip netns exec`.
    """
    prefix = f"scale{os.getpid()}-"
    names = [f"{prefix}{number}" for number in range(count)]
    switch = f"{prefix}switch"
    relay: subprocess.Popen[bytes] | None = None
    try:
        for name in [switch, *names]:
            _run("ip", "netns", "add", name)
            _run("ip", "-n", name, "link", "set", "lo", "up")
        if link.delay:
            relay = _relay(names, link.delay)
        else:
            _wire(switch, names, link.gbit, offload=offload)
        for number, name in enumerate(names):
            _run("ip", "-n", name, "address", "add", f"{address(number)}/24", "dev", "eth0")
            _run("ip", "-n", name, "link", "set", "eth0", "up")
            _shape(name, "eth0", link.gbit)
        yield names
    finally:
        if relay is not None:
            relay.terminate()
            relay.wait()
        for name in [switch, *names]:
            subprocess.run(["ip", "netns", "delete", name], stderr=subprocess.DEVNULL)


def _wire(switch: str, names: list[str], gbit: float, *, offload: bool) -> None:
    """A bridge, and a cable from it to each machine."""
    _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
    _run("ip", "-n", switch, "link", "set", "bridge", "up")
    for number, name in enumerate(names):
        port = f"port{number}"
        ends = f"link add {port} type veth peer name eth0 netns {name}"
        _run("ip", "-n", switch, *ends.split())
        _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
        if not offload:
            _run("ip", "-n", name, "link", "set", "eth0", "gso_max_segs", "1")
        _shape(switch, port, gbit)


def _relay(names: list[str], delay: float) -> subprocess.Popen[bytes]:
    command = [sys.executable, __file__, str(delay), *names]
    relay = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert relay.stdout is not None
    with relay.stdout as told:
        if told.readline() != b"ready\n":
            relay.wait()
            raise OSError("no TUN devices: they need root, and /dev/net/tun")
    return relay


def _open_tun(namespace: str) -> int:
    """A TUN device eth0 in a namespace; the calling thread stays there."""
    with open(f"/run/netns/{namespace}") as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"namespace {namespace} can't be entered")
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"eth0", _IFF_TUN | _IFF_NO_PI))
    _run("ip", "link", "set", "eth0", "mtu", str(_TUN_MTU))
    return device


class Delayed:
    """IPv4 packets on their way: each goes to the machine of its destination after some time."""

    def __init__(self, machines: int, delay: float) -> None:
        self.machines, self.delay = machines, delay
        self.waiting: list[tuple[float, int, int, bytes]] = []
        self.turn = 0

    def add(self, packet: bytes, now: float) -> None:
        """Takes a packet; what goes to none of the machines is lost."""
        to = packet[19] - 1 if len(packet) > 19 and packet[0] >> 4 == 4 else -1
        if 0 <= to < self.machines:
            self.turn += 1
            heapq.heappush(self.waiting, (now + self.delay, self.turn, to, packet))

    def due(self, now: float) -> Iterator[tuple[int, bytes]]:
        """(machine, packet) of those that arrive now, in their order."""
        while self.waiting and self.waiting[0][0] <= now:
            yield heapq.heappop(self.waiting)[2:]

    def left(self, now: float) -> float | None:
        """Seconds until the next arrives; None: there is none."""
        return max(0.0, self.waiting[0][0] - now) if self.waiting else None


def pass_on(devices: Sequence[int], delay: float) -> None:
    """Hands packets from device to device, for ever."""
    delayed = Delayed(len(devices), delay)
    while True:
        ready, _, _ = select.select(devices, [], [], delayed.left(time.monotonic()))
        for device in ready:
            with contextlib.suppress(BlockingIOError):
                delayed.add(os.read(device, _LARGEST), time.monotonic())
        for to, packet in delayed.due(time.monotonic()):
            os.write(devices[to], packet)


def sent_so_far(interface: str) -> tuple[int, int]:
    """(bytes, packets) that this namespace has sent over an interface."""
    with open("/proc/self/net/dev") as file:
        for line in file:
            name, _, numbers = line.partition(":")
            if name.strip() == interface:
                words = numbers.split()
                return int(words[8]), int(words[9])
    raise OSError(f"interface {interface} is not there")


def data_segments() -> int:
    """TCP segments with data that this namespace has sent, repeats left out."""
    with open("/proc/self/net/netstat") as file:
        lines = [line.split() for line in file if line.startswith("TcpExt:")]
    return int(lines[1][lines[0].index("TCPOrigDataSent")])


if __name__ == "__main__":
    opened = [_open_tun(name) for name in sys.argv[2:]]
    print("ready", flush=True)
    pass_on(opened, float(sys.argv[1]))
