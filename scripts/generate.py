#!/usr/bin/env python3
"""Write text: see sparse_jax/commands/lm/generate.py."""

import sys

from sparse_jax.commands.lm.generate import main

if __name__ == "__main__":
    sys.exit(main())
