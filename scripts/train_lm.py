#!/usr/bin/env python3
"""Train a language model: see sparse_jax/commands/lm/train.py."""

import sys

from sparse_jax.commands.lm.train import main

if __name__ == "__main__":
    sys.exit(main())
