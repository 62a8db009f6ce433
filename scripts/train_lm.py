#!/usr/bin/env python3
"""Train a language model: see sparse_jax/commands/lm/train.py."""

import sys

from sparse_jax.commands.lm.train import main
from sparse_jax.runtime import compiled

if __name__ == "__main__":
    sys.exit(compiled.run(main))
