"""A small index behind the search page, and a client that sends files as the page does."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

from small_index import TINY
from starlette.testclient import TestClient

from sparse_jax import search

D = search.Document
ROWS = [
    D(f"d{n}", f"red apple {n}", metadata={"year": 1990 + n, "kind": "ab"[n % 2], "to": f"P{n}"})
    for n in range(40)
]


def save(place: Path, rows: list[search.Document] = ROWS) -> Path:
    with search.fit(rows, config=TINY) as made:
        made.save(place)
    return place


class Sender:
    """Sends files as the page's script does."""

    def __init__(self, client: TestClient, base: str = "") -> None:
        self.client, self.base = client, base
        home = client.get(f"{base}/").text
        self.token = re.search(r'name="token" value="([^"]+)"', home)[1]

    def ask(self, method: str, door: str, content: bytes = b"", **params: str) -> Any:
        headers = {"X-Token": self.token}
        door = self.base + door
        return self.client.request(method, door, content=content, params=params, headers=headers)

    def send(self, files: dict[str, bytes], **params: str) -> dict[str, Any]:
        """How an upload of these files ends."""
        name = self.ask("POST", "/uploads").json()["upload"]
        for path, content in files.items():
            answer = self.ask("PUT", f"/uploads/{name}", content, path=path)
            assert answer.status_code == 200, answer.text
        assert self.ask("POST", f"/uploads/{name}", **params).status_code == 200
        return self.wait(name)

    def wait(self, name: str) -> dict[str, Any]:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            now = self.ask("GET", f"/uploads/{name}").json()
            if now["state"] not in ("receiving", "reading", "adding", "learning"):
                return now
            time.sleep(0.01)
        raise AssertionError(f"still {now}")
