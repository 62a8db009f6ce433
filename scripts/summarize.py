#!/usr/bin/env python3
"""Summaries: see sparse_jax/commands/summarize.py."""

import sys

from sparse_jax.commands.summarize import main
from sparse_jax.runtime import compiled

if __name__ == "__main__":
    sys.exit(compiled.run(main))
