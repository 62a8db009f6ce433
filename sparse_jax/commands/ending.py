"""How a command ends: what went wrong as one line, and its exit status."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable


def status_of(
    run: Callable[[argparse.Namespace], int | None],
    args: argparse.Namespace,
    *,
    closed_pipe: int | None = None,
) -> int:
    """Runs a command; returns its exit status.

    A missing library, a file that can't be read or written, a wrong value, and more than fits into
    memory are told in one line: status 2. Ctrl-C is 130.

    Args:
      run: the command, whose status is 0 where it returns None.
      args: of its command line.
      closed_pipe: the status where whoever reads standard output has seen enough, as `| head`;
        None tells of it as of any file that can't be written.

    Returns:
      The status.

    Example:
      >>> status_of(lambda args: print(args.name), argparse.Namespace(name="apples"))
      apples
      0
      >>> status_of(lambda args: int(args.name), argparse.Namespace(name="apples"))
      2
    """
    try:
        return run(args) or 0
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except MemoryError as error:  # of a size that was asked for: NumPy's says how many bytes
        print(f"error: not enough memory: {str(error) or 'ask for less'}", file=sys.stderr)
        return 2
    except (ImportError, OSError, ValueError) as error:
        if closed_pipe is not None and isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return closed_pipe
        print(f"error: {error}", file=sys.stderr)
        return 2
