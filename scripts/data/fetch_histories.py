#!/usr/bin/env python3
"""Fetches real histories of users, as published, for `sparse-jax recommend compare`.

    python scripts/data/fetch_histories.py SETS
    sparse-jax recommend compare SETS/toys.txt.gz --seeds 3
    sparse-jax recommend train SETS/toys.txt.gz --items SETS/toys_items.jsonl.gz --model MODEL

Seven sets: reviews of beauty products, toys, sports goods and games in Amazon's shop, reviews of
places on Yelp, artists that users of LastFM tagged, and MovieLens' ratings of films; of some, texts
of the items as well: titles, years and genres of films, categories, by number, of goods. Each
source is pinned to a commit or version, and to the SHA-256 of its content, so a set is these bytes
or an error; --from takes files that are already on this machine, under the names of the sources,
and no network. What is written is packed, otherwise as it was published, but texts are one object a
line; manifest.json holds sizes, and what the order of events is.
"""

from __future__ import annotations

import argparse
import dataclasses
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparse_jax import data
from sparse_jax.commands.ending import status_of
from sparse_jax.runtime import files

_RAW = "https://raw.githubusercontent.com"
_ICLREC = f"{_RAW}/salesforce/ICLRec/2890e6c3ff6a22c6699fc19cb863b66786c1cde4/data"
_S3REC = f"{_RAW}/aHuiWang/CIKM2020-S3Rec/49a890dcb516c9ed3126564495234ea74d5cd566/data"
_SASREC = f"{_RAW}/kang205/SASRec/e3738967fddab206d6eeb4fda433e7a7034dd8b1/data"
_DAYS = "by day; those of one day as they were published"
_SECONDS = 60  # without an answer that end a download


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a set is, and what it must be."""

    place: str  # an address; or PACKAGE==VERSION/MEMBER of a wheel, which pip fetches
    sha256: str  # of the content
    order: str  # what the order of a user's events is

    @property
    def file(self) -> str:
        """Its name as published."""
        return self.place.rpartition("/")[2]


SETS = {
    "beauty": Source(
        f"{_S3REC}/Beauty.txt",
        "226cce9c3105299ca0db9615d7d3fb32b3175e90da43100ae352599f0f0107b8",
        _DAYS,
    ),
    "lastfm": Source(
        f"{_S3REC}/LastFM.txt",
        "9ded486adb5b0fe9dc761950afa0a9a05e93ff018992e0c52bf11afec529f802",
        "by the day of a tag that the user gave the artist; those of one day by number of artist",
    ),
    "ml100k": Source(
        "recbole==1.2.1/recbole/dataset_example/ml-100k/ml-100k.inter",
        "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
        "by second of the rating; many films are rated in one sitting",
    ),
    "sports": Source(
        f"{_ICLREC}/Sports_and_Outdoors.txt",
        "2a095e0648872beb9982408958290f5d655db5be2911c3756b5446de9f0b8de2",
        _DAYS,
    ),
    "toys": Source(
        f"{_ICLREC}/Toys_and_Games.txt",
        "176c680c688d497598c4a89a03b402c0fe78d795e5db335c2e78dd5f2d778a3f",
        _DAYS,
    ),
    "video": Source(
        f"{_SASREC}/Video.txt",
        "b7376fe24430743f411dc7f567285657b2adb3f74361cc7ba0aee94f3024b651",
        _DAYS,
    ),
    "yelp": Source(
        f"{_ICLREC}/Yelp.txt",
        "724b219106b81dd2349027da997334ddb6da9fe2f152ad6e0d97a93170f7caed",
        "by time of the review",
    ),
}

ITEMS = {
    "beauty": Source(
        f"{_S3REC}/Beauty_item2attributes.json",
        "129e40f67486f6877eff0f5318cfa8530ee8ac23d8b0d1de04e1bb7a2ba0b2d4",
        "",
    ),
    "ml100k": Source(
        "recbole==1.2.1/recbole/dataset_example/ml-100k/ml-100k.item",
        "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
        "",
    ),
    "sports": Source(
        f"{_S3REC}/Sports_and_Outdoors_item2attributes.json",
        "7fb10733ac4f1811384a52144cdefa7fcc7536fa80a7232c5da9bd789155c34b",
        "",
    ),
    "toys": Source(
        f"{_S3REC}/Toys_and_Games_item2attributes.json",
        "d371acd25101eedac04afc727626464b7acec770c4eda708705d51eb76eb1ad0",
        "",
    ),
}
"""Texts of the items of a set."""


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="for the sets")
    parser.add_argument(
        "--from", dest="source", type=Path, metavar="DIR", help="of the files as published"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(SETS)} (all)")
    args = parser.parse_args(argv)
    unknown = {*(args.only or ())} - {*SETS}
    if unknown:
        parser.error(f"--only {' '.join(sorted(unknown))}: must be of {', '.join(SETS)}")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return status_of(_run, parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    """Fetches sets, and enters each into the manifest when its file is there."""
    files.make_directory(args.directory)
    manifest = args.directory / "manifest.json"
    entries = json.loads(manifest.read_text(encoding="utf8")) if manifest.exists() else {}
    for name in args.only or SETS:
        source = SETS[name]
        content = checked(name, source, args.source)
        target = args.directory / f"{name}{Path(source.file).suffix}.gz"
        files.write_atomically(target, gzip.compress(content, mtime=0))
        entries[name] = described(target) | {"order": source.order, "sha256": source.sha256}
        if name in ITEMS:
            texts = as_jsonl(ITEMS[name].file, checked(name, ITEMS[name], args.source))
            where = args.directory / f"{name}_items.jsonl.gz"
            files.write_atomically(where, gzip.compress(texts, mtime=0))
            entries[name]["items_sha256"] = ITEMS[name].sha256
        files.write_json(manifest, dict(sorted(entries.items())))
        print(
            "{}: {users:,} users, {items:,} items, {events:,} events".format(name, **entries[name])
        )


def checked(name: str, source: Source, directory: Path | None) -> bytes:
    """The content of a set.

    Args:
        name: of the set.
        source: where it is.
        directory: that has the file; None to fetch it.

    Raises:
        ValueError: the content is another one, or can't be fetched.
        OSError: the directory lacks the file.
    """
    if directory is not None:
        content = (directory / source.file).read_bytes()
    elif "==" in source.place:
        content = _member(name, *source.place.split("/", 1))
    else:
        content = _download(name, source)
    digest = hashlib.sha256(content).hexdigest()
    if digest != source.sha256:
        raise ValueError(
            f"{name} = {source.file} of SHA-256 {digest[:12]}…: must be {source.sha256[:12]}…; "
            "it was cut off or changed: fetch it again, or leave the set out by --only"
        )
    return content


def _download(name: str, source: Source) -> bytes:
    try:
        with urllib.request.urlopen(source.place, timeout=_SECONDS) as answer:
            content: bytes = answer.read()
    except OSError as error:  # URLError and time-outs are
        raise ValueError(
            f"{name} = {source.place}: can't be fetched ({error}); bring the file here by another "
            f"way and say --from DIR, or leave the set out by --only"
        ) from None
    return content


def _member(name: str, package: str, member: str) -> bytes:
    """A file of a wheel, which is never installed."""
    with tempfile.TemporaryDirectory() as place:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", place, package]
        done = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(place).glob("*.whl"))
        if done.returncode or not wheels:
            said = done.stderr.strip().splitlines()[-1:] or ["pip says nothing"]
            raise ValueError(
                f"{name} = {package}: can't be fetched ({said[0]}); unpack {member} from its wheel "
                "and say --from DIR, or leave the set out by --only"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            return wheel.read(member)


def as_jsonl(file: str, content: bytes) -> bytes:
    """Texts of items as `data.read_item_texts` reads them, an object a line.

    Args:
        file: as published: .json of lists of categories by item, or RecBole's .item.
        content: of the file.
    """
    if file.endswith(".json"):
        lists = json.loads(content).items()
        rows = [{"item": item, "text": " ".join(map(str, of))} for item, of in lists]
    else:
        texts = data.read_item_texts(io.BytesIO(content))
        rows = [{"item": item, "text": of} for item, of in texts.items()]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def described(file: Path) -> dict[str, Any]:
    """Sizes of a set.

    Args:
        file: that holds it.
    """
    histories = data.read_histories(file)
    return {
        "users": histories.num_users,
        "items": histories.num_items,
        "events": len(histories.items),
        "median_events": float(np.median(histories.lengths)),
    }


if __name__ == "__main__":
    sys.exit(main())
