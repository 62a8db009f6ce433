"""The study of the sharded step's cost: its formulas, its links, and what its processes measure."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scale_out
import scale_out_child as child
import scale_out_links as links
import scale_out_model as model

from sparse_jax.xmc import sharded_step

pytestmark = pytest.mark.usefixtures("quick_compiles")
MACHINE = model.Machine(1e-3, 1e-11, 3e-10, 2e-9, 1e-9)
SHAPES = [
    model.Shape(shards, points, hidden, active)
    for shards in (1, 2, 4)
    for points, hidden, active in ((64, 64, 1024), (256, 128, 4096), (512, 32, 2048))
]


def test_a_machine_is_found_from_its_steps() -> None:
    rows = [model.counts(shape, 3000 // shape.shards) for shape in SHAPES]
    found = model.fit(rows, [float(row @ np.array(MACHINE)) for row in rows])
    np.testing.assert_allclose(found, MACHINE, rtol=1e-6)
    # Nothing costs less than nothing, whatever was measured.
    noise = np.random.default_rng(0).uniform(0.2, 5, len(rows))
    assert min(model.fit(rows, list(noise * 1e-3))) >= 0


def test_a_step_is_work_and_rounds_and_bytes() -> None:
    link = model.Link(2e-3, 1e8)
    for shape in SHAPES:
        found = model.predict(shape, MACHINE, link, 900)
        alone = shape.shards == 1
        assert found.seconds == found.work + found.rounds + found.wire
        assert (found.sent == 0) == (found.rounds == 0) == (found.wire == 0) == alone
        assert found.rounds == pytest.approx(2e-3 * found.messages)
        assert found.wire == pytest.approx(found.sent / 1e8)
    assert [model.messages(shards) for shards in (1, 2, 4, 8)] == [0, 4, 18, 42]
    assert [model.pieces(shards) for shards in (1, 2, 4, 8)] == [0, 24, 90, 210]
    shape = SHAPES[4]
    # A notice with each of 24 pieces, and a header; one more for each whole segment.
    extra = 24 * (49 + 66) + 66 * model.sent(shape) / 1448
    assert model.on_wire(shape) == pytest.approx(model.sent(shape) + extra)
    assert model.sent(shape) == sharded_step.bytes_sent(
        shape.config(900), batch_size=256, entries=256 * 76, labels=256 * 6
    )
    even, uneven = (model.predict(shape, MACHINE, link, 900, imbalance=x) for x in (1, 1.5))
    cost = 2 * 128 * 0.5 * 256 * 76 * MACHINE.number  # of half the entries of a shard
    assert uneven.work - even.work == pytest.approx(cost)
    two = model.predict(shape, MACHINE, link, 900, cores=2)
    assert two.work == pytest.approx(even.work / 2) and two.wire == even.wire


def test_a_link_is_found_from_two_exchanges() -> None:
    found = model.link_of(3e-4, 3e-4 + 4e6 / 1.25e8, 4_000_000)
    assert found.round == 3e-4 and found.bytes_per_second == pytest.approx(1.25e8)


def test_a_language_model_of_rows() -> None:
    memory = model.Memory(2, 100, rows=1000, width=4, orders=2, followers=1, trunk=10)
    assert memory.bytes_here == 500 * 4 * 8
    # Of two shards half of the contexts lie elsewhere: 12 words each; half a ring of 10 weights.
    assert memory.sent == 0.5 * (200 * 48 + 80)
    assert memory.messages == 5


def packet(to: int, text: bytes = b"") -> bytes:
    return bytes([0x45, *[0] * 15, 10, 77, 0, to]) + text


def test_packets_wait_and_arrive_in_order() -> None:
    delayed = links.Delayed(2, 0.001)
    assert delayed.left(5.0) is None
    delayed.add(packet(1, b"a"), 5.0)
    delayed.add(packet(2, b"b"), 5.0)
    for lost in (packet(3), packet(0), b"\x60" + packet(1)[1:], b""):
        delayed.add(lost, 5.0)
    delayed.add(packet(1, b"c"), 5.0005)
    assert delayed.left(5.0004) == pytest.approx(0.0006)
    assert list(delayed.due(5.0009)) == []
    assert [(to, p[20:]) for to, p in delayed.due(5.00101)] == [(0, b"a"), (1, b"b")]
    assert delayed.left(6.0) == 0
    assert [(to, p[20:]) for to, p in delayed.due(6.0)] == [(0, b"c")]


@pytest.mark.skipif(not Path("/proc/self/net/netstat").exists(), reason="needs /proc")
def test_what_was_sent_is_counted() -> None:
    before = *links.sent_so_far("lo"), links.data_segments()
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as one, server.accept()[0] as other:
            one.sendall(bytes(1000))
            assert other.recv(1000, socket.MSG_WAITALL) == bytes(1000)
    after = *links.sent_so_far("lo"), links.data_segments()
    assert after[0] - before[0] > 1000 and after[1] > before[1] and after[2] > before[2]
    with pytest.raises(OSError, match="interface nowhere is not there"):
        links.sent_so_far("nowhere")


SEND = """
import socket, sys, time
for _ in range(100):
    try:
        link = socket.create_connection(("10.77.0.2", 7), timeout=5)
        break
    except ConnectionRefusedError:
        time.sleep(.05)
link.sendall(b"?")
started = time.monotonic()
link.sendall(b"!" * SIZE)
link.recv(1)
print(time.monotonic() - started)
"""
ANSWER = """
import socket
server = socket.create_server(("10.77.0.2", 7))
link, _ = server.accept()
left = 1 + SIZE
while left:
    left -= len(link.recv(min(left, 1 << 16)))
link.sendall(b"!")
link.recv(1)
"""


def may_make_namespaces() -> bool:
    return os.name == "posix" and os.geteuid() == 0 and shutil.which("ip") is not None


@pytest.mark.slow
@pytest.mark.skipif(not may_make_namespaces(), reason="needs root, ip and tc")
@pytest.mark.parametrize(
    ("link", "size", "least"),
    [
        # Twice the burst goes at the rate at least: 1 MB at 20 Mbit/s.
        (links.Shaped("slow", 0.02), 1_250_000, 0.3),
        (links.Shaped("far", 1, 0.05), 1, 0.1),
    ],
)
def test_links_are_slow_or_far(link: links.Shaped, size: int, least: float) -> None:
    try:
        with links.machines(2, link) as names:
            started = [
                subprocess.Popen(
                    ["ip", "netns", "exec", name, sys.executable, "-S", "-c", program],
                    stdout=subprocess.PIPE,
                    text=True,
                )
                for name, program in zip(
                    names, (f"SIZE = {size}{SEND}", f"SIZE = {size}{ANSWER}"), strict=True
                )
            ]
            printed = [process.communicate(timeout=30)[0] for process in started]
            assert [process.returncode for process in started] == [0, 0]
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no namespaces here: {error}")
    assert least < float(printed[0]) < 20 * least
    left = subprocess.run(["ip", "netns", "list"], stdout=subprocess.PIPE, text=True).stdout
    assert not any(name in left for name in names)


@pytest.mark.slow
def test_a_process_measures_steps_and_exchanges(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    shape = {"points": 8, "hidden": 4, "active": 64, "labels": 300, "features": 200, "entries": 5}
    job = scale_out.job(1, [shape], exchanges=True, steps=2)
    monkeypatch.setattr(sys, "argv", ["child", job])
    monkeypatch.setattr(child, "LARGE", 128)
    child.main()
    exchanges, steps = map(json.loads, capsys.readouterr().out.splitlines())
    assert set(exchanges["exchanges"]) == {"small", "large"} and exchanges["bytes"] == 512
    assert steps["shape"] == model.Shape(1, **shape)._asdict()
    assert steps["imbalance"] == 1 and steps["overflow"] == 0
    assert 0 < steps["seconds"][0] < 10 and steps["bytes"] == [0]


def test_the_busiest_shard_is_found() -> None:
    dealing = model.Shape(2, 8, features=4).config(1).features
    owners = np.asarray(dealing.place(np.arange(4, dtype=np.int32))[0])
    ids = np.flatnonzero(owners == 1).astype(np.int32)
    assert child.imbalance(np.concatenate([ids, [-1]]).astype(np.int32), dealing) == 2
    assert child.imbalance(np.arange(4, dtype=np.int32), dealing) == 1


def test_parts_use_what_the_ones_before_have_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processes that measure exactly what the formulas say."""

    def steps(task: str) -> list[dict[str, Any]]:
        job = json.loads(task)
        found = []
        for given in job["shapes"]:
            shape = model.Shape(job["shards"], **given)
            work = float(model.counts(shape, 700) @ np.array(MACHINE))
            wire = model.messages(shape.shards) * 1e-3 + model.sent(shape) / 1e8
            line = {"shape": shape._asdict(), "distinct_features": 700, "imbalance": 1.0}
            line |= {"processor": [shape.shards * work], "seconds": [work + wire] * 2}
            line |= {"segments": [1.0], "bytes": [2.0 * model.sent(shape)]}
            found.append(line)
        if job["exchanges"]:
            large = {"seconds": [1e-3 + 4e6 / 1e8]}
            both = {"small": {"seconds": [1e-3]}, "large": large}
            found.insert(0, {"exchanges": both, "bytes": 4_000_000})
        return found

    monkeypatch.setattr(scale_out, "run", lambda commands: steps(commands[0][-1]))
    monkeypatch.setattr(scale_out, "run_linked", lambda count, link, task, **_: steps(task))
    study = scale_out.Study()
    for part in scale_out.PARTS:
        getattr(scale_out, f"study_{part}")(study)
    np.testing.assert_allclose(study.machine, MACHINE, rtol=1e-6)
    assert len(study.found["links"]) == 6
    for row in study.found["links"]:
        assert row["predicted"] == pytest.approx(row["seconds"])
    assert all(row["counted"] == 2 * row["sent"] for row in study.found["counts"])
    assert study.found["predict"]["labels"]["cores 16"]["seconds"] > 0


def test_an_unknown_part(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["scale_out.py", "wires"])
    with pytest.raises(SystemExit):
        scale_out.main()
    assert "PART wires: must be one of work, links, counts, predict" in capsys.readouterr().err
