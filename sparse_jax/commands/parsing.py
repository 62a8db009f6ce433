"""A parser of command lines whose errors are one line, not all options and then one."""

from __future__ import annotations

import argparse
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose description keeps its lines, and whose errors are short."""

    def __init__(self, about: str | None) -> None:
        super().__init__(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and where help is, and ends the process with status 2."""
        self.exit(2, f"{self.prog}: error: {message}\n  {self.prog} --help shows all options\n")
