#!/usr/bin/env python3
"""Time one training step of the Amazon-670K shape: ours against dense and sampled peers.

    python scripts/bench_step.py --json step.json
    python scripts/bench_step.py --peers ours_shared,torch_sampled_sparse_adam --batch-size 256

Every peer lives in a process of its own, so that its peak memory is its own, and the processes take
turns: one step each, round after round. Peers whose package isn't installed are named and left out.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_data import Shape
from bench_peers import PEERS

from sparse_jax.runtime.files import write_json
from sparse_jax.runtime.machine import peak_rss_bytes

OURS = {
    "ours_shared": ("lsh", "shared"),
    "ours_per_example": ("lsh", "per_example"),
    "ours_uniform": ("uniform", "shared"),
    "ours_bfloat16": ("lsh", "shared", "bfloat16"),
    "ours_mixed": ("lsh", "shared", "float32", "mixed"),
}
ROUNDS = 7
WARM_UP = 1


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    names = [*OURS, *PEERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--batch-size", type=int, default=1024, metavar="B", help="(1024)")
    add("--active", type=int, default=4096, metavar="A", help="active or sampled classes (4096)")
    add("--labels", type=int, default=670_091, metavar="N", help="rows of the output (670,091)")
    add("--peers", default=",".join(names), metavar="LIST", help=f"of {', '.join(names)} (all)")
    add("--json", metavar="FILE", help="write the results here")
    add("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("batch_size", "active", "labels"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    args.peers = [name for name in args.peers.split(",") if name]
    unknown = set(args.peers) - set(names)
    if unknown or not args.peers:
        parser.error(f"--peers {','.join(sorted(unknown))}: choose from {', '.join(names)}")
    return args


def shape_of(args: argparse.Namespace) -> Shape:
    """The problem's sizes."""
    return Shape(batch_size=args.batch_size, active=args.active, num_labels=args.labels)


# The worker's side -------------------------------------------------------------------------------


def work(args: argparse.Namespace) -> None:
    """Answers the lines "step", "report", "stages" and "rebuild" with a line of JSON each."""
    answers = sys.stdout
    sys.stdout = sys.stderr  # what a library prints must not pass for an answer
    shape = shape_of(args)
    peer: Any
    if args.worker == "machine":
        peer = None
    elif args.worker in OURS:
        import bench_ours

        peer = bench_ours.Ours(shape, *OURS[args.worker])
    else:
        peer = PEERS[args.worker][1](shape)

    def step() -> dict[str, float]:
        peer.prepare()
        began = time.perf_counter()
        loss = peer.step()
        return {"ms": 1e3 * (time.perf_counter() - began), "loss": loss}

    commands = {
        "step": step,
        "report": lambda: peer.report(),
        "stages": lambda: peer.stages(),
        "rebuild": lambda: {"ms": peer.rebuild_ms()},
        "machine": measure_machine,
    }
    for line in sys.stdin:
        print(json.dumps(commands[line.strip()]()), file=answers, flush=True)


def measure_machine() -> dict[str, float]:
    """Multiply-adds/s of a large matrix product, and bytes/s of a copy, on all threads."""
    import jax
    import jax.numpy as jnp

    def best(call: Any) -> float:
        jax.block_until_ready(call())
        seconds = []
        for _ in range(7):
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds))

    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: a @ a)
    big = jnp.ones(2**25)
    copy = jax.jit(lambda x: x + 1.0, donate_argnums=0)
    held = [big]

    def move() -> Any:
        held[0] = copy(held[0])
        return held[0]

    return {
        "madds_per_second": 2048**3 / best(lambda: product(a)),
        "bytes_per_second": 2 * big.nbytes / best(move),
        "peak_rss_bytes": peak_rss_bytes(),
    }


# The parent's side -------------------------------------------------------------------------------


class Worker:
    """A peer in its process."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name = name
        command = [sys.executable, str(Path(__file__).resolve()), "--worker", name]
        for option in ("batch_size", "active", "labels"):
            command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
        environment = {
            **os.environ,
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "JAX_PLATFORMS": "cuda" if name.endswith("_cuda") else "cpu",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # peers on a GPU share it
        }
        threads = str(len(os.sched_getaffinity(0)))
        for variable in ("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment.setdefault(variable, threads)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, command: str) -> dict[str, Any]:
        """The answer to a command."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} died (exit status {self.process.wait()}): see above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def missing(name: str) -> str | None:
    """The package that a peer needs and that isn't installed."""
    package = PEERS[name][0] if name in PEERS else None
    return package if package and importlib.util.find_spec(package) is None else None


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The figures of all peers, in turns."""
    absent = {name: package for name in args.peers if (package := missing(name))}
    present = [name for name in args.peers if name not in absent]
    machine_worker = Worker("machine", args)
    machine = machine_worker.ask("machine")
    machine_worker.close()
    workers = []
    times: dict[str, list[float]] = {name: [] for name in present}
    try:
        for name in present:
            print(f"starting {name} …", file=sys.stderr)
            workers.append(Worker(name, args))
            for _ in range(WARM_UP):
                workers[-1].ask("step")
        for _ in range(ROUNDS):
            for worker in workers:
                times[worker.name].append(worker.ask("step")["ms"])
        peers = {
            worker.name: {
                "ms": float(np.median(times[worker.name])),
                "all_ms": times[worker.name],
                **worker.ask("report"),
            }
            for worker in workers
        }
        stages, rebuild = {}, None
        for worker in workers:
            if worker.name == "ours_shared":
                stages = worker.ask("stages")
                rebuild = worker.ask("rebuild")["ms"]
    finally:
        for worker in workers:
            worker.close()
    for peer in peers.values():
        peer["examples_per_second"] = 1e3 * args.batch_size / peer["ms"]
    for name, package in absent.items():
        peers[name] = {"not_installed": package}
    return summarize(machine, peers, stages, rebuild) | {
        "batch_size": args.batch_size,
        "active": args.active,
        "labels": args.labels,
        "threads": len(os.sched_getaffinity(0)),
    }


def summarize(
    machine: dict[str, float],
    peers: dict[str, dict[str, Any]],
    stages: dict[str, float],
    rebuild_ms: float | None,
) -> dict[str, Any]:
    """The ratios that matter; None where a side is missing."""
    ours = peers.get("ours_shared", {})

    def speedup(name: str) -> float | None:
        ms = peers.get(name, {}).get("ms")
        return ms / ours["ms"] if ms and ours else None

    floor = roofline_ms(machine, ours) if ours else None
    return {
        "speedup_vs_dense_jax": speedup("jax_dense"),
        "speedup_vs_dense_torch": speedup("torch_dense"),
        "speedup_vs_dense_jax_on_gpu": speedup("jax_dense_cuda"),
        "speedup_vs_sampled_jax": speedup("jax_sampled"),
        "speedup_vs_sampled_tensorflow": speedup("tensorflow_sampled"),
        "speedup_vs_sampled_torch_sparse_adam": speedup("torch_sampled_sparse_adam"),
        "madds_saved": 1 - ours["madds"] / ours["dense_madds"] if ours else None,
        "roofline_ms": floor,
        "roofline_ratio": ours["ms"] / floor["total"] if ours and floor else None,
        "peak_rss_bytes": ours.get("peak_rss_bytes"),
        "state_bytes": ours.get("state_bytes"),
        "machine": machine,
        "peers": peers,
        "stages": stages,
        "rebuild_ms": rebuild_ms,
    }


def roofline_ms(machine: dict[str, float], ours: dict[str, Any]) -> dict[str, float]:
    """The least time of each stage on this machine: its arithmetic or its bytes, the longer."""
    madds = ours["madds_by_stage"]
    arithmetic = {
        "bag": madds["bag"] / 2,
        "codes": madds["hash"],
        "query": madds["query"],
        "forward": madds["products"] / 3 + madds["loss"],
        "backward": madds["products"] * 2 / 3 + madds["bag"] / 2,
        "optimizer": madds["optimizer"],
    }
    floor = {
        stage: 1e3
        * max(
            count / machine["madds_per_second"],
            ours["bytes_by_stage"].get(stage, 0.0) / machine["bytes_per_second"],
        )
        for stage, count in arithmetic.items()
    }
    return floor | {"total": sum(floor.values())}


def print_results(results: dict[str, Any]) -> None:
    """For people."""
    machine = results["machine"]
    print(
        f"\nmachine, {results['threads']} threads: {2e-9 * machine['madds_per_second']:.0f} "
        f"GFLOP/s matrix product, {1e-9 * machine['bytes_per_second']:.1f} GB/s copy\n"
    )
    print(f"{'peer':<26} {'ms':>9} {'examples/s':>11} {'RSS MB':>8} {'M madds':>9} {'MB moved':>9}")
    for name, peer in results["peers"].items():
        if "not_installed" in peer:
            print(f"{name:<26} not measured: {peer['not_installed']} is not installed")
            continue
        print(
            f"{name:<26} {peer['ms']:>9.1f} {peer['examples_per_second']:>11,.0f} "
            f"{peer['peak_rss_bytes'] / 1e6:>8,.0f} {peer['madds'] / 1e6:>9,.0f} "
            f"{peer['bytes'] / 1e6:>9,.0f}"
        )
    if results["stages"]:
        floor, step = results["roofline_ms"], results["peers"]["ours_shared"]["ms"]
        print(f"\n{'stage of ours_shared':<22} {'ms':>8} {'of step':>8} {'roofline ms':>12}")
        for stage, ms in results["stages"].items():
            least = f"{floor[stage]:>12.2f}" if stage in floor else f"{'':>12}"
            print(f"{stage:<22} {ms:>8.2f} {ms / step:>8.1%} {least}")
        print(f"{'whole step':<22} {step:>8.2f} {'':>8} {floor['total']:>12.2f}")
        print(f"rebuild of all rows, 50 tables: {results['rebuild_ms']:,.0f} ms")
    print()
    for key in [k for k in results if k.startswith(("speedup", "madds_saved", "roofline_ratio"))]:
        print(f"{key:<38} {'not measured' if results[key] is None else f'{results[key]:.4g}'}")


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    args = parse_args(argv)
    if args.worker:
        work(args)
        return 0
    try:
        results = measure(args)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_results(results)
    if args.json:
        write_json(args.json, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
