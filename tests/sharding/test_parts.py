"""Parts of the library on 8 devices of one process: each check of `sharded_checks` by its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_checks


@pytest.fixture(scope="module")
def raised() -> dict[str, str]:
    """What each check raised, in a process of 8 devices."""
    path = os.pathsep.join([str(Path(sharded_checks.__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, sharded_checks.__file__],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", sharded_checks.CHECKS)
def test_on_8_devices(name: str, raised: dict[str, str]) -> None:
    assert raised[name] == ""
