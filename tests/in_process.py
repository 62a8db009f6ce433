"""Commands run in the tests' own process."""

import io
import sys
from typing import Any


def call(module: Any, capsys: Any, *options: str, whole: bool = False) -> tuple[int, str, str]:
    """Runs a command's main: (status, output, errors).

    Args:
      module: whose `main` it is.
      capsys: pytest's fixture.
      options: the command line.
      whole: also what it writes as bytes.
    """
    raw = io.BytesIO()
    before = sys.argv[0]

    if whole:
        capsys.readouterr()
        shown, sys.stdout = sys.stdout, io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    try:
        status = module.main(list(options))
    except SystemExit as done:  # of argparse
        status = done.code
    finally:
        sys.argv[0] = before
        if whole:
            sys.stdout.flush()
            sys.stdout.detach()
            sys.stdout = shown
    told = capsys.readouterr()
    return status, raw.getvalue().decode() if whole else told.out, told.err
