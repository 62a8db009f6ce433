"""The set that benchmarks use without files: debian-depends, beside the scripts."""

from pathlib import Path

FILES = [
    str(Path(__file__).resolve().parent.parent / "data" / f"debian-depends_{part}.txt.gz")
    for part in ("train", "test")
]
