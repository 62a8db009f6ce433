"""The cost of a sharded step: measured in parts, put together by formulas, checked, extrapolated.

    python scripts/studies/scale_out.py                  # all of it: about 5 minutes, as root
    python scripts/studies/scale_out.py counts           # bytes and messages alone
    python scripts/studies/scale_out.py work links       # what takes a quiet machine of 2 cores

`work` times steps of 1, 2 and 4 shards in one process on one core, and fits the machine. `links`
runs 2 processes in network namespaces with shaped links: it times exchanges, predicts steps from
these and the machine, and times them. `counts` runs 2, 4 and 8 processes and counts what they send.
`predict` does sums for machines that are not here, by what `work` has found. The last line is one
JSON object; docs/scale-out.md says what was found.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import scale_out_links as links
import scale_out_model as model

PARTS = ("work", "links", "counts", "predict")
STEPS = 30
PORT = 8476
HERE = Path(__file__).resolve().parent
# Bytes do not depend on how many labels and features there are; of the first, each message fits one
# packet.
COUNTED = [
    {"points": 4, "hidden": 8, "active": 256, "entries": 12, "labels": 2000, "features": 1000},
    {"points": 64, "active": 256, "labels": 2000, "features": 1000},
]
WORK: dict[int, list[dict[str, int]]] = {
    1: [{"points": 256}, {"points": 1024}, {"points": 512, "hidden": 64, "active": 1024}],
    2: [{"points": 512}, {"points": 128, "hidden": 64, "active": 1024}],
    4: [{"points": 256}, {"points": 64, "active": 1024}, {"points": 64, "hidden": 256}],
}
CHECKED = [{"points": 512}, {"points": 64, "active": 1024}]
FAR = 0.0001  # seconds of an exchange between machines of one rack: an assumption
TEN_GBIT = 1.25e9  # bytes a second


@dataclasses.dataclass
class Study:
    """What the parts have found."""

    machine: model.Machine | None = None
    found: dict[str, Any] = dataclasses.field(default_factory=dict)


def job(shards: int, shapes: list[dict[str, int]], **more: Any) -> str:
    """What a process of `scale_out_child.py` is asked for."""
    every = {"shards": shards, "shapes": shapes, "steps": STEPS, "interface": None}
    return json.dumps(every | {"exchanges": False} | more)


def run(commands: list[list[str]], **given: str) -> list[dict[str, Any]]:
    """The lines that the first of these processes prints; all of them must end well."""
    started: list[subprocess.Popen[str]] = []
    folders = [str(HERE), str(HERE.parent / "bench"), os.environ.get("PYTHONPATH", "")]
    try:
        for number, command in enumerate(commands):
            env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, folders))}
            if len(commands) > 1:
                env |= {
                    "SPARSE_JAX_PROCESSES": str(len(commands)),
                    "SPARSE_JAX_PROCESS": str(number),
                }
                env |= given
            started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        printed = [process.communicate()[0] for process in started]
    finally:
        for process in started:
            process.kill()  # does nothing to one that has ended
            process.wait()
    if any(process.returncode for process in started):
        raise SystemExit(f"a process of {len(commands)} has failed")
    return [json.loads(line) for line in printed[0].splitlines() if line.startswith("{")]


def child(core: int, task: str) -> list[str]:
    """A process on one core."""
    return ["taskset", "-c", str(core), sys.executable, str(HERE / "scale_out_child.py"), task]


def run_linked(
    count: int, link: links.Shaped, task: str, *, offload: bool = True, **given: str
) -> Any:
    """The same task by one process on each of so many machines; more variables may be given."""
    cores = sorted(os.sched_getaffinity(0))
    with links.machines(count, link, offload=offload) as names:
        commands = [
            ["ip", "netns", "exec", name, *child(cores[number % len(cores)], task)]
            for number, name in enumerate(names)
        ]
        return run(commands, SPARSE_JAX_COORDINATOR=f"{links.address(0)}:{PORT}", **given)


def study_work(study: Study) -> None:
    """Fits the machine to steps of one core."""
    rows, seconds, shown = [], [], []
    core = min(os.sched_getaffinity(0))
    for shards, shapes in WORK.items():
        for line in run([child(core, job(shards, shapes))]):
            shape = model.Shape(**line["shape"])
            # The mean of its shards, not the busiest: they take turns.
            rows.append(model.counts(shape, line["distinct_features"]))
            seconds.append(line["processor"][0] / shards)
            shown.append(line)
    study.machine = model.fit(rows, seconds)
    study.found["machine"] = study.machine._asdict()
    study.found["work"] = []
    print("| S | b | d | A | measured, ms of a shard | fitted |\n|---|---|---|---|---|---|")
    for line, row, took in zip(shown, rows, seconds, strict=True):
        shape, fitted = model.Shape(**line["shape"]), float(row @ np.array(study.machine))
        study.found["work"].append(line["shape"] | {"seconds": took, "fitted": fitted})
        sizes = f"| {shape.shards} | {shape.points} | {shape.hidden} | {shape.active}"
        print(f"{sizes} | {1e3 * took:.1f} | {1e3 * fitted:.1f} |", flush=True)
    print(json.dumps(study.machine._asdict()))


def study_links(study: Study) -> None:
    """Predicts steps of two processes by the machine and the link alone, and times them."""
    study.found["links"] = []
    print("| link | exchange, ms | MB/s | b | predicted, ms | measured, ms |\n" + "|---" * 6 + "|")
    for link in links.LINKS.values():
        task = job(2, CHECKED, exchanges=True, interface="eth0")
        exchanges, *steps = run_linked(2, link, task)
        small, large = (max(exchanges["exchanges"][n]["seconds"]) for n in ("small", "large"))
        found = model.link_of(small, large, exchanges["bytes"])
        for line in steps:
            shape, measured = model.Shape(**line["shape"]), max(line["seconds"])
            known = f"| {link.name} | {1e3 * small:.3f} | {found.bytes_per_second / 1e6:.0f}"
            row: dict[str, Any] = {"link": link.name, "seconds": measured} | found._asdict()
            row |= line["shape"] | {"processor": max(line["processor"])}
            told = "–"
            if study.machine is not None:
                guess = model.predict(
                    shape,
                    study.machine,
                    found,
                    line["distinct_features"],
                    imbalance=line["imbalance"],
                )
                row |= {"predicted": guess.seconds, "parts": guess._asdict()}
                told = f"{1e3 * guess.seconds:.1f}"
            study.found["links"].append(row)
            print(f"{known} | {shape.points} | {told} | {1e3 * measured:.1f} |", flush=True)


def study_counts(study: Study) -> None:
    """Counts what a process sends in a step, over interfaces without offload: packets of a wire."""
    study.found["counts"] = []
    names = "| S | b | d | messages | pieces | TCP segments | bytes of the model | with headers |"
    print(names + " on the interface |\n" + "|---" * 9 + "|")
    for shards in (2, 4, 8):
        task = job(shards, COUNTED, interface="eth0", steps=12)
        link = links.LINKS["10 Gbit/s"]
        quickly = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # to compile: nothing is timed
        for line in run_linked(shards, link, task, offload=False, **quickly):
            shape = model.Shape(**line["shape"])
            messages, pieces = model.messages(shards), model.pieces(shards)
            sent, on_wire = model.sent(shape), model.on_wire(shape)
            segments, counted = (float(np.mean(line[name])) for name in ("segments", "bytes"))
            row = {"messages": messages, "pieces": pieces, "segments": segments}
            row |= {"sent": sent, "on_wire": on_wire, "counted": counted}
            study.found["counts"].append(line["shape"] | row | {"imbalance": line["imbalance"]})
            print(
                f"| {shards} | {shape.points} | {shape.hidden} | {messages} | {pieces} | "
                f"{segments:.1f} | {sent:,} | {on_wire:,.0f} | {counted:,.0f} |",
                flush=True,
            )


def study_predict(study: Study) -> None:
    """Machines that are not here: 16 of 16 cores, linked by 10 Gbit/s."""
    link = model.Link(FAR, TEN_GBIT)
    large = model.Shape(16, 64, hidden=768, active=8192, labels=10**8, features=10**6)
    distinct = large.points * large.entries  # as if no feature came twice
    dense = 8 * ((10**8 + 10**6) * 768) * 15 // 16
    found: dict[str, Any] = {
        "bytes": model.sent(large),
        "messages": model.messages(16),
        "dense": dense,
        "bytes_here": 12 * 769 * (large.labels + large.features) // 16,
    }
    if study.machine is not None:
        for cores in (1, 16):
            guess = model.predict(large, study.machine, link, distinct, cores=cores)
            found[f"cores {cores}"] = guess._asdict() | {"seconds": guess.seconds}
    found["wire"] = found["bytes"] / TEN_GBIT
    found["waiting"] = found["messages"] * FAR
    print(f"10^8 labels x 768: {json.dumps(found)}")
    memory = model.Memory(16, 1024)
    lm = {"bytes": memory.sent, "messages": memory.messages, "bytes_here": memory.bytes_here}
    lm |= {"wire": memory.sent / TEN_GBIT, "waiting": memory.messages * FAR}
    print(f"10^11 parameters of a language model: {json.dumps(lm)}")
    study.found["predict"] = {"labels": found, "memory": lm}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parts = parser.parse_args().parts or PARTS
    for part in parts:
        if part not in PARTS:
            parser.error(f"PART {part}: must be one of {', '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # children and namespaces end as well
    study = Study()
    for part in PARTS:
        if part in parts:
            globals()[f"study_{part}"](study)
    print(json.dumps(study.found))


if __name__ == "__main__":
    main()
