"""A parser of command lines whose errors are one line, not all options and then one."""

from __future__ import annotations

import argparse
import difflib
import os
import re
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` whose description keeps its lines, and whose errors are short."""

    def __init__(self, about: str | None) -> None:
        super().__init__(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """Says what is wrong and where help is, and ends the process with status 2."""
        unknown = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        if unknown:
            near = difflib.get_close_matches(unknown[1], self._option_string_actions, n=1)
            message += f"; did you mean {near[0]}?" if near else ""
        words = message.removeprefix("unrecognized arguments: ").split()
        files = [word for word in words if word.startswith("-") and os.path.exists(word)]
        if files:
            message += f"; is {files[0]} a file? Call it ./{files[0]}"
        self.exit(2, f"{self.prog}: error: {message}\n  {self.prog} --help shows all options\n")
