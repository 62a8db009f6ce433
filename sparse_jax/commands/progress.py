"""Progress of long work as bars on the terminal."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm


class Bars:
    """One bar a stage, for `Progress` callbacks; silent where the terminal isn't one.

    Use it in a `with` block: it closes what is open.
    """

    def __init__(self) -> None:
        self.stage = ""
        self.bar: Any = None

    def __call__(self, stage: str, done: int, total: int, note: str) -> None:
        if stage != self.stage or self.bar is None:
            self.close()
            self.stage = stage
            self.bar = tqdm(total=total, desc=stage, disable=None, dynamic_ncols=True)
        if note.startswith("resumed"):
            tqdm.write(f"{stage}: {note}")
            return
        self.bar.update(done - self.bar.n)
        if note:
            self.bar.set_postfix_str(note, refresh=False)

    def close(self) -> None:
        """Ends the bar that is open."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
