#!/usr/bin/env python3
"""Whole classifiers beside their peers: see bench/compare.py."""

import runpy
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "bench"

if __name__ == "__main__":
    sys.path.insert(0, str(FOLDER))
    runpy.run_path(str(FOLDER / "compare.py"), run_name="__main__")
