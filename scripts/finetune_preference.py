#!/usr/bin/env python3
"""Tune by preferences: see sparse_jax/commands/preference.py."""

import sys

from sparse_jax.commands.preference import main

if __name__ == "__main__":
    sys.exit(main())
