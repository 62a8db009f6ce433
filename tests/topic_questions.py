"""Questions that a preference is learned from, three of each topic."""

from __future__ import annotations


def questions(topics: int) -> list[dict[str, str]]:
    return [
        {
            "question": f"{kind} of t{i}?",
            "title": f"T{i}" if kind == "cause" else f"t{i}",
            "qtype": kind,
            "text": f"{kind} words of number t{i} are {kind}",
        }
        for i in range(topics)
        for kind in ("cause", "cure", "signs")
    ]
