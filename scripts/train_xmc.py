#!/usr/bin/env python3
"""Train an extreme classifier: see sparse_jax/commands/xmc/train.py."""

import sys
from pathlib import Path

from sparse_jax.commands.xmc.train import main
from sparse_jax.runtime import compiled

DATA = Path(__file__).resolve().parent / "data"
FILES = [str(DATA / f"debian-depends_{part}.txt.gz") for part in ("train", "test")]

if __name__ == "__main__":
    sys.exit(compiled.run(lambda: main(defaults=FILES)))
