"""A corpus of English from Debian's documentation packages: train, valid and test.

    python scripts/data/debian_corpus.py list packages.txt     # all there are, as name=version
    python scripts/data/debian_corpus.py build packages.txt OUT

`build` takes packages in the order of the list, some at a time, and keeps their text in OUT/texts,
so that a run that was ended goes on where it was. Then near-duplicates go, by document and by
paragraph, and what is left is written: train.txt.gz, valid.txt.gz and test.txt.gz, documents parted
by form feeds, paragraphs by blank lines, and manifest.json. All packages of one source are on one
side. The same list gives the same files. It takes apt, and pip install 'sparse_jax[corpus]'.
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import corpus_packages
import corpus_texts
from corpus_assembly import assemble
from corpus_packages import Package
from tqdm import tqdm

from sparse_jax.commands.ending import status_of
from sparse_jax.runtime.files import make_directory, write_atomically

AT_ONCE = 64 << 20  # bytes of packages that lie on the disk together


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("list", help="write the packages that there are").add_argument
    add("list", metavar="LIST", help="the file to create or replace")
    add = commands.add_parser("build", help="make the corpus of a list").add_argument
    add("list", metavar="LIST", help="name=version a line, as `list` writes them")
    add("out", metavar="OUT", help="the folder to write to")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    return status_of(_run, parse_args(argv))


def _run(args: argparse.Namespace) -> None:
    if args.command == "list":
        chosen = sorted(filter(corpus_packages.is_english_documentation, known().values()))
        lines = [f"{package.name}={package.version}\n" for package in chosen]
        write_atomically(args.list, "".join(lines).encode())
        size = sum(package.size for package in chosen)
        print(f"{len(chosen):,} packages of {size / 1e9:.1f} GB")
        return
    packages = listed(args.list)
    texts = make_directory(Path(args.out) / "texts")
    extract(packages, texts)
    totals = assemble([text_file(texts, package) for package in packages], Path(args.out))
    print(json.dumps(totals, indent=1))


def known() -> dict[str, Package]:
    """What apt knows of all packages, by name."""
    found = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, check=True)
    return corpus_packages.known(found.stdout.decode(errors="replace"))


def listed(path: str) -> list[Package]:
    """The packages of a list, with what apt knows of them.

    Raises:
      ValueError: at a line that is no name=version.
      OSError: if it can't be read.
    """
    packages = known()
    found = []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        name, sign, version = line.strip().partition("=")
        if not (name and sign and version):
            raise ValueError(f"{path}, line {number}: {line!r}: must be name=version")
        now = packages.get(name, Package(name, version, name, "", 0))
        found.append(now._replace(version=version))
    return found


def text_file(texts: Path, package: Package) -> Path:
    """Where the text of a package is kept."""
    return texts / f"{package.name}={package.version.replace('/', '_')}.jsonl.gz"


def extract(packages: Sequence[Package], texts: Path) -> None:
    """Downloads the packages that have no text yet, and keeps the text of each."""
    missing = [package for package in packages if not text_file(texts, package).exists()]
    with tqdm(total=len(missing), desc="packages", disable=None, dynamic_ncols=True) as bar:
        for some in _portions(missing):
            folder = Path(tempfile.mkdtemp(prefix="packages-", dir=texts.parent))
            try:
                files = corpus_packages.download(some, folder)
                for package in some:
                    if package.name in files:
                        write_text(package, files[package.name], text_file(texts, package))
                    else:
                        print(f"{package.name}={package.version}: not there", file=sys.stderr)
                    bar.update()
            finally:
                shutil.rmtree(folder)


def _portions(packages: Sequence[Package]) -> Iterator[list[Package]]:
    """Runs of packages that are downloaded together."""
    part: list[Package] = []
    for package in packages:
        if part and sum(p.size for p in part) + package.size > AT_ONCE:
            yield part
            part = []
        part.append(package)
    if part:
        yield part


def write_text(package: Package, file: Path, target: Path) -> None:
    """Writes what a package holds: a line about it, then one a document."""
    documents, licences = [], set()
    for path, content in corpus_packages.files(file):
        if path == f"usr/share/doc/{package.name}/copyright":
            licences.update(corpus_packages.licences(content.decode(errors="replace")))
        elif found := corpus_texts.paragraphs(path, content):
            documents.append({"path": path, "paragraphs": found})
    about = {
        "package": package.name,
        "version": package.version,
        "source": package.source,
        "licences": sorted(licences),
    }
    lines = [json.dumps(line, ensure_ascii=False) for line in [about, *documents]]
    write_atomically(target, gzip.compress("\n".join(lines).encode(), 3, mtime=0))


if __name__ == "__main__":
    sys.exit(main())
