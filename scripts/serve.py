#!/usr/bin/env python3
"""The page: see sparse_jax/commands/serve/."""

import sys

from sparse_jax.commands.serve import main
from sparse_jax.runtime import compiled

if __name__ == "__main__":
    sys.exit(compiled.run(lambda: main(sample=True)))
