"""`python -m sparse_jax.commands.serve`."""

import sys

from sparse_jax.commands.serve import main

if __name__ == "__main__":
    sys.exit(main())
