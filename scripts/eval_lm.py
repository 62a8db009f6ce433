#!/usr/bin/env python3
"""Score a text: see sparse_jax/commands/lm/evaluate.py."""

import sys

from sparse_jax.commands.lm.evaluate import main
from sparse_jax.runtime import compiled

if __name__ == "__main__":
    sys.exit(compiled.run(main))
