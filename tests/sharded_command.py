"""`xmc train-sharded` as tests start it in several processes: compiled quickly, a small memory.

sparse-jax launch -n 2 -- python sharded_command.py train.txt --hidden 8
"""

from __future__ import annotations

import sys
from typing import Any

import quickly

from sparse_jax import sharding
from sparse_jax.commands.xmc import train_sharded
from sparse_jax.xmc import memory

KEPT = 60
_JOIN = sharding.initialize


def initialize(*args: Any, **named: Any) -> None:
    _JOIN(*args, **named)
    quickly.switch(True)  # which asks the backend, that is there only now


if __name__ == "__main__":
    sharding.initialize = initialize
    memory.KEPT = KEPT  # fewer points than there are
    sys.exit(train_sharded.main())
