"""Parts and the training step on several devices of one process: each check by its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import sharded_checks
import sharded_training

PROGRAMS: list[ModuleType] = [sharded_checks, sharded_training]
NAMES = [name for module in PROGRAMS for name in module.CHECKS]


@pytest.fixture(scope="module")
def raised() -> dict[str, str]:
    """What each check raised, in processes of 8 devices."""
    found: dict[str, str] = {}
    for module in PROGRAMS:
        assert module.__file__ is not None
        path = os.pathsep.join([str(Path(module.__file__).parent), *sys.path])
        done = subprocess.run(
            [sys.executable, module.__file__],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )
        assert done.returncode == 0
        found |= json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_on_devices(name: str, raised: dict[str, str]) -> None:
    assert raised[name] == ""
