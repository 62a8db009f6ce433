#!/usr/bin/env python3
"""Write text: see sparse_jax/commands/lm/generate.py."""

import sys

from sparse_jax.commands.lm.generate import main
from sparse_jax.runtime import compiled

if __name__ == "__main__":
    sys.exit(compiled.run(main))
