#!/usr/bin/env python3
"""Tune by preferences: see sparse_jax/commands/preference.py."""

import sys

from sparse_jax.commands.preference import main
from sparse_jax.runtime import compiled

if __name__ == "__main__":
    sys.exit(compiled.run(main))
