"""`python -m sparse_jax.commands.search`."""

import sys

from sparse_jax.commands.search import main

if __name__ == "__main__":
    sys.exit(main())
