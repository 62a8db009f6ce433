"""Debian packages: which hold documentation in English, what is in them, under which licences."""

from __future__ import annotations

import re
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

MOST_BYTES = 60 << 20  # of a package; the few that are larger are pictures
_PLACES = re.compile(
    r"usr/share/(doc|man/man\d\w*|info|gtk-doc|help/C|dictd|games/fortunes|doc-base|perl)/|usr/share/"
    r"(\w|-)+/(doc|docs|html|help)/|usr/lib/jvm/.*/docs/"
)
# Texts that aren't English, or no texts: translations, PDF, pictures, examples of data.
_OTHER = re.compile(
    r"^(texlive|task|libreoffice-l10n|gimp-help-(?!en$)|dict-freedict|installation-guide-(?!amd64))"
    r"|-(examples?|data|dbg|dbgsym|pdf|off)$"
    r"|-(ar|bg|br|ca|cs|da|de|el|eo|es|et|eu|fa|fi|fr|ga|gl|he|hr|hu|id|it|ja|ko|lt|mk|nb|nl|nn|no|"
    r"pl|pt|ro|ru|sk|sl|sr|sv|tr|uk|vi|zh)(-(br|pt|cn|tw|no|html|pdf|dev|l10n))*$"
)
_NAMED = re.compile(r"-(docs?|manual|reference|guide|handbook|faq|howto|html)(-|$)|doc$")
_MORE = re.compile(
    r"^(manpages(-dev|-posix|-posix-dev)?|dict-(gcide|foldoc|jargon|wn|devil|elements|vera)|"
    r"fortunes(-min|-debian-hints)?|fortune-anarchism|perl-doc|debian-(faq|history|policy|handbook|"
    r"reference-en|kernel-handbook)|lib.*-perl|miscfiles)$"
)


class Package(NamedTuple):
    """A package as the mirror has it."""

    name: str
    version: str
    source: str  # that it is built from, without version: packages of one are alike
    section: str
    size: int  # bytes


def known(stanzas: str) -> dict[str, Package]:
    """All packages by name that `apt-cache dumpavail` prints, of each the newest that it names.

    Example:
      >>> known("Package: a-doc\\nVersion: 1\\nSource: a (0.9)\\nSize: 9\\n")["a-doc"]
      Package(name='a-doc', version='1', source='a', section='', size=9)
    """
    found: dict[str, Package] = {}
    for stanza in stanzas.split("\n\n"):
        fields: dict[str, str] = dict(re.findall(r"(?m)^([A-Za-z-]+): (.*)$", stanza))
        if {"Package", "Version", "Size"} <= fields.keys():
            name = fields["Package"]
            source, section = fields.get("Source", name).split()[0], fields.get("Section", "")
            package = Package(name, fields["Version"], source, section, int(fields["Size"]))
            found[name] = max(package, found.get(name, package))
    return found


def is_english_documentation(package: Package) -> bool:
    """Whether a package is taken for the corpus, by its name and section.

    Example:
      >>> names = ["a-doc", "a-doc-de", "liba-perl", "a", "texlive-a-doc"]
      >>> [n for n in names if is_english_documentation(Package(n, "1", n, "misc", 9))]
      ['a-doc', 'liba-perl']
    """
    named = package.section.endswith("doc") or _NAMED.search(package.name)
    wanted = (named and not _OTHER.search(package.name)) or _MORE.match(package.name)
    return bool(wanted) and package.size <= MOST_BYTES


def download(packages: list[Package], folder: Path) -> dict[str, Path]:
    """Files of packages by name, fetched into a folder; those that the mirror lacks are left out.

    Raises:
      OSError: if there is no apt-get.
    """
    wanted = [f"{p.name}={p.version}" for p in packages]

    def get(names: list[str]) -> bool:
        command = ["apt-get", "-qq", "download", *names]
        done = subprocess.run(command, cwd=folder, stderr=subprocess.DEVNULL, check=False)
        return done.returncode == 0

    if not get(wanted):
        for one in wanted:  # one that isn't there keeps apt-get from all others
            get([one])
    return {path.name.partition("_")[0]: path for path in sorted(folder.glob("*.deb"))}


def files(package: Path) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the files of a package that may hold text, in its order."""
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as unpacking:
        assert unpacking.stdout is not None
        with tarfile.open(fileobj=unpacking.stdout, mode="r|") as archive:
            for member in archive:
                path = member.name.removeprefix("./")
                if member.isfile() and _PLACES.match(path):
                    opened = archive.extractfile(member)
                    assert opened is not None
                    yield path, opened.read()


def licences(copyright_file: str) -> list[str]:
    """The licences that a package's copyright file names, sorted.

    Example:
      >>> licences("Files: *\\nLicense: GPL-2+\\n text\\n\\nLicense: MIT\\n")
      ['GPL-2+', 'MIT']
      >>> licences("On Debian it is in /usr/share/common-licenses/GFDL-1.3.")
      ['GFDL-1.3']
    """
    named = re.findall(r"(?m)^License: *([A-Za-z0-9](?:[\w.+-]| (?! ))*)$", copyright_file)
    if not named:
        named = re.findall(r"common-licenses/([A-Za-z]+(?:-\d+(?:\.\d+)*)?)", copyright_file)
    return sorted({name.strip() for name in named})
