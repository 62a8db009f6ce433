#!/usr/bin/env python3
"""Score a text: see sparse_jax/commands/lm/evaluate.py."""

import sys

from sparse_jax.commands.lm.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
