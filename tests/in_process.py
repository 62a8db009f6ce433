"""Scripts run in the tests' own process."""

from typing import Any


def call(module: Any, capsys: Any, *options: str) -> tuple[int, str, str]:
    """Runs a script's main: (status, output, errors)."""
    try:
        status = module.main(list(options))
    except SystemExit as done:  # of argparse
        status = done.code
    told = capsys.readouterr()
    return status, told.out, told.err
