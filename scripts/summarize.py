#!/usr/bin/env python3
"""Summaries: see sparse_jax/commands/summarize.py."""

import sys

from sparse_jax.commands.summarize import main

if __name__ == "__main__":
    sys.exit(main())
