#!/usr/bin/env python3
"""Search your own documents: see sparse_jax/commands/search."""

import sys

from sparse_jax.commands.search import main
from sparse_jax.runtime import compiled

if __name__ == "__main__":
    sys.exit(compiled.run(main))
