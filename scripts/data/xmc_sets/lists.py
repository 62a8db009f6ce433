"""The indexes of a Debian mirror: fetched by apt, read as records and as paths."""

from __future__ import annotations

import dataclasses
import functools
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

SUITE = "bookworm"
LANGUAGES = ("en", "de")
_CONFIGURATION = """\
#clear Acquire::Languages;
Acquire::Languages {{ {languages} }};
Acquire::GzipIndexes "false";
Dir::State "{place}";
Dir::Cache "{place}/cache";
Dir::Etc::sourcelist "{place}/debian.sources";
Dir::Etc::sourceparts "-";
Acquire::IndexTargets::deb::Contents-deb {{
  MetaKey "$(COMPONENT)/Contents-$(ARCHITECTURE)";
  ShortDescription "Contents-$(ARCHITECTURE)";
  Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Contents (deb)";
}};
"""
_SOURCES = """\
Types: deb deb-src
URIs: http://deb.debian.org/debian
Suites: {suite}
Components: main
Architectures: amd64
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
"""


def fetch(place: Path) -> Path:
    """Lets apt fetch and verify the indexes, apart from the machine's own; 0.8 GB unpacked.

    Args:
        place: a directory for them; made if missing.

    Returns:
        The directory that holds the indexes.

    Raises:
        OSError: there is no apt-get.
        subprocess.CalledProcessError: apt-get failed; it has said why.
    """
    for part in ("lists/partial", "cache/archives/partial"):
        (place / part).mkdir(parents=True, exist_ok=True)
    (place / "debian.sources").write_text(_SOURCES.format(suite=SUITE))
    languages = " ".join(f'"{language}";' for language in LANGUAGES)
    configuration = place / "apt.conf"
    configuration.write_text(
        _CONFIGURATION.format(place=place.resolve(), languages=languages), encoding="utf8"
    )
    subprocess.run(["apt-get", "-c", str(configuration), "update"], check=True)
    return place / "lists"


def records(file: Path) -> Iterator[dict[str, str]]:
    """The paragraphs of an index; a continued field has its lines, without their first blank."""
    record: dict[str, str] = {}
    name = ""
    with open(file, encoding="utf8") as lines:
        for line in lines:
            if not line.strip():
                if record:
                    yield record
                record = {}
            elif line[0] in " \t":
                record[name] += "\n" + line.strip()
            else:
                name, _, value = line.partition(":")
                record[name] = value.strip()
    if record:
        yield record


@dataclasses.dataclass(frozen=True)
class Lists:
    """Indexes in one directory, under the names apt gives them; each is read once.

    Raises:
        ValueError: an index is missing.
    """

    directory: Path

    def files(self, ending: str) -> list[Path]:
        """The indexes whose name ends like this, in order."""
        found = sorted(self.directory.glob(f"*{ending}"))
        if not found:
            raise ValueError(
                f"{self.directory} = a directory without *{ending}: must hold the mirror's "
                "indexes, unpacked; leave out --lists to have them fetched"
            )
        return found

    @functools.cached_property
    def packages(self) -> dict[str, dict[str, str]]:
        """Binary packages by name; the first record of a name counts."""
        found: dict[str, dict[str, str]] = {}
        for file in self.files("_Packages"):
            for record in records(file):
                found.setdefault(record["Package"], record)
        return found

    @functools.cached_property
    def sources(self) -> dict[str, dict[str, str]]:
        """Source packages by name; of several versions the last counts."""
        return {r["Package"]: r for file in self.files("_Sources") for r in records(file)}

    def source_of(self, package: str) -> str:
        """The source that a binary package is built from."""
        record = self.packages.get(package, {})
        return record.get("Source", package).split(" ")[0]

    @functools.cache  # noqa: B019
    def descriptions(self, language: str) -> dict[str, str]:
        """Synopsis and long description of each package in a language."""
        return {
            record["Package"]: record[f"Description-{language}"]
            for file in self.files(f"_Translation-{language}")
            for record in records(file)
            if record["Package"] in self.packages
        }

    def paths(self) -> Iterator[tuple[str, str]]:
        """(path, the first package that has it) of every file."""
        for file in self.files("_Contents-*"):
            with open(file, encoding="utf8") as lines:
                for line in lines:
                    path, _, owners = line.rstrip("\n").rpartition(" ")
                    owner = owners.partition(",")[0].rpartition("/")[2]
                    if owner in self.packages:
                        yield path.rstrip(), owner


def words(text: str) -> list[str]:
    """Runs of letters and digits, in small letters, of 2 to 30 of them."""
    return [w for w in re.findall(r"[^\W_]+", text.lower()) if 2 <= len(w) <= 30]


def relations(field: str) -> list[str]:
    """Names of packages in a field like Depends, alternatives too, each once."""
    names = (
        re.split(r"[\s:(\[<]", part.strip(), maxsplit=1)[0] for part in re.split("[,|]", field)
    )
    return list(dict.fromkeys(name for name in names if re.match(r"[a-z0-9][a-z0-9+.-]*$", name)))
