"""The corpus of documentation packages, from a folder of made-up ones: no network."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
import subprocess

import corpus_assembly
import corpus_packages
import corpus_texts
import debian_corpus
import numpy as np
import pytest
from corpus_packages import Package
from in_process import call

NOUNS = [f"{a}{b}" for a in ("ap", "be", "cor", "do", "el") for b in ("ple", "ast", "ner", "ve")]


def prose(seed: int, sentences: int = 8) -> str:
    """A paragraph like no other: sentences that English's small words hold together."""
    rng = np.random.default_rng(seed)
    said = []
    for _ in range(sentences):
        a, b, c = rng.choice(NOUNS, 3)
        said.append(f"The {a}{seed} of the {b} is in {c}{rng.integers(1e6)} and it was for you.")
    return " ".join(said)


GERMAN = "Der Apfel liegt auf dem Tisch und er ist so rot, dass niemand ihn essen will. " * 9
MANUAL = r""".TH A 1
.SH NAME
a \- it is \fBthe\fR first of all the letters
.SH DESCRIPTION
.PP
The \fIfirst\fP letter of the alphabet is
.B not
the last of them, as it can\(aqt be.
.nf
int a = the_first_of(them, all);
.fi
"""


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """Makes packages: `mirror(name, source, files)`; `apt` then knows and brings them."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb here")
    folder, known = tmp_path / "mirror", {}
    folder.mkdir()

    def make(name: str, source: str, files: dict[str, str | bytes]) -> None:
        root = tmp_path / "roots" / name
        for path, content in files.items():
            target = root / "usr/share/doc" / name / path if path[0] != "/" else root / path[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)
        (root / "DEBIAN").mkdir(parents=True)
        (root / "DEBIAN/control").write_text(
            f"Package: {name}\nVersion: 1-2\nArchitecture: all\nMaintainer: a <a@b>\n"
            "Description: a\n"
        )
        deb = folder / f"{name}_1-2_all.deb"
        command = ["dpkg-deb", "--root-owner-group", "-Zgzip", "--build", str(root), str(deb)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        known[name] = Package(name, "1-2", source, "doc", deb.stat().st_size)

    def bring(packages, to):
        for package in packages:
            if (folder / f"{package.name}_1-2_all.deb").exists():
                shutil.copy(folder / f"{package.name}_1-2_all.deb", to)
        return {path.name.partition("_")[0]: path for path in to.glob("*.deb")}

    monkeypatch.setattr(corpus_packages, "download", bring)
    monkeypatch.setattr(debian_corpus, "known", lambda: known)
    return make


def source_on(side: str) -> str:
    return next(f"s{i}" for i in range(999) if corpus_assembly.side_of(f"s{i}") == side)


def read(out) -> dict[str, list[list[str]]]:
    """By side, the paragraphs of each document."""
    found = {}
    for side in corpus_assembly.SIDES:
        text = gzip.decompress((out / f"{side}.txt.gz").read_bytes()).decode()
        found[side] = [part.strip().split("\n\n") for part in text.split("\f") if part.strip()]
    return found


def test_a_corpus_of_packages(mirror, tmp_path, capsys):
    page = (
        f"<html><head><title>no</title><script>the of and to in is</script></head><body><nav>"
        f"{prose(98)}</nav><h1>About</h1><p>{prose(1)}</p><ul><li>{prose(2)}<li>Write to "
        f"&lt;Jo@example.org&gt;, it is the way to go.</ul><pre>int main() {{ return 0; }}</pre>"
        f"</body></html>"
    )
    mirror(
        "a-doc",
        source_on("train"),
        {
            "html/page.html": page,
            "copyright": "Files: *\nLicense: GPL-2+\n text\n\nLicense: Expat\n",
            "changelog.gz": gzip.compress(prose(97).encode()),
            "picture.png": b"\x89PNG" + prose(96).encode(),
            "de.txt": GERMAN,
            "/opt/other.txt": prose(95),
        },
    )
    same = f"Intro\n\n{prose(1)}\n\n{prose(3)}\n\nA heading\n\n{prose(2)}\n"
    mirror("b-doc", source_on("test"), {"same.txt.gz": gzip.compress(same.encode())})
    copy = f"{prose(3)}\n\n{prose(4)}"
    mirror("c-doc", source_on("test"), {"x.md": same.replace("Intro", "Begin"), "y.txt": copy})
    mirror("d-doc", source_on("valid"), {"short.txt": prose(5, 2), "long.rst": prose(6)})
    (tmp_path / "list").write_text("".join(f"{x}-doc=1-2\n" for x in "abcde"))
    out = tmp_path / "out"
    status, _, err = call(debian_corpus, capsys, "build", str(tmp_path / "list"), str(out))
    assert status == 0 and "e-doc=1-2: not there" in err
    assert read(out) == {
        "train": [["About", prose(1), prose(2), "Write to, it is the way to go."]],
        "valid": [[prose(6)]],
        "test": [[prose(3)], [prose(4)]],
    }
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["read"]["documents"] == 6
    packages = {package["package"]: package for package in manifest["packages"]}
    assert packages["a-doc"]["licences"] == ["Expat", "GPL-2+"] and packages["b-doc"]["words"] > 50
    assert packages["a-doc"]["side"] == "train" and packages["d-doc"]["version"] == "1-2"
    for side in corpus_assembly.SIDES:
        content = (out / manifest[side]["file"]).read_bytes()
        assert manifest[side]["sha256"] == hashlib.sha256(content).hexdigest()
        text = gzip.decompress(content).decode()
        assert manifest[side]["words"] == len(text.replace("'", " ").replace(",", " ").split())
    # Again, from what was extracted, and elsewhere from the packages: the same bytes.
    for folder in (out, tmp_path / "again"):
        call(debian_corpus, capsys, "build", str(tmp_path / "list"), str(folder))
        assert (folder / "manifest.json").read_bytes() == (out / "manifest.json").read_bytes()
        assert not list(folder.glob("packages-*"))


def test_lists(mirror, tmp_path, capsys):
    for name in ("b-doc", "a-doc", "a-doc-fr"):
        mirror(name, "a", {"x.txt": "x"})
    path = tmp_path / "list"
    assert call(debian_corpus, capsys, "list", str(path))[0] == 0
    assert path.read_text() == "a-doc=1-2\nb-doc=1-2\n"
    path.write_text("a-doc=1\n\nb-doc\n")
    status, _, err = call(debian_corpus, capsys, "build", str(path), str(tmp_path / "out"))
    assert status == 2 and "list, line 3: 'b-doc': must be name=version" in err


@pytest.mark.parametrize(
    ("path", "content", "expected"),
    [
        (
            "usr/share/man/man1/a.1.gz",
            gzip.compress(MANUAL.encode(), mtime=0),
            [
                "NAME",
                "a - it is the first of all the letters",
                "DESCRIPTION",
                "The first letter of the alphabet is not the last of them, as it can't be.",
            ],
        ),
        ("usr/share/man/de/man1/a.1", MANUAL.encode(), []),
        (
            "usr/share/info/a.info",
            b"File: a.info, Node: Top\n\n1 Top\n*****\n\nIt is the top of all that\nwas said.\n"
            b"\n* Menu:\n\n* One: it is the one of all.\n\x1f\nTag Table:\nit is the tag of all\n",
            ["1 Top", "It is the top of all that was said."],
        ),
        (
            "usr/share/perl/5.36.0/pod/a.pod",
            b"=head1 The Name\n\nIt is B<the C<name>> of C<< a->b >>.\n\n=over 4\n\n=cut\n",
            ["The Name", "It is the name of a->b."],
        ),
        ("usr/share/doc/a/a.txt", b"The caf\xe9 is in the town.", ["The café is in the town."]),
        ("usr/share/doc/a/README.gz", b"no gzip, but it is the text of a file", []),
        ("usr/share/doc/a/a.html", b"", []),
        (
            "usr/share/doc/a/a.html",
            b"<head></head><noscript><frameset><frame src=a.html></frameset></noscript>",
            [],
        ),
        ("usr/share/doc/a/AUTHORS", b"It is me who was the author of this.", []),
        ("usr/share/doc/a/a.cc", b"// It is the file of all that was.", []),
        (
            "usr/share/games/fortunes/f",
            b"It is the first of all.\n%\nint a;\n",
            ["It is the first of all."],
        ),
    ],
)
def test_kinds_of_files(path, content, expected):
    assert corpus_texts.paragraphs(path, content) == expected


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        ("jo.doe@example.org wrote", "wrote"),
        ("to jo (at) example (dot) org.", "to."),
        ("jo at example dot org", ""),
        ("look at the dot product", "look at the dot product"),
        ("call +1 (555) 123-4567 now", "call now"),
        ("1 + 2\n\tis  3", "1 + 2 is 3"),
        ("a\x00b\u200bc &amp; d", "abc & d"),
    ],
)
def test_what_is_stripped(block, expected):
    assert corpus_texts.clean(block) == expected


def test_people_are_left_out():
    blocks = ["Copyright (C) 1999 by the one who is the author of it all.", "Author: it is the one"]
    assert corpus_texts.english(blocks) == []


def test_one_package_that_is_missing_keeps_no_other(tmp_path, monkeypatch):
    """As with the real one, which then brings nothing of what it was asked for."""
    bin_, folder = tmp_path / "bin", tmp_path / "to"
    bin_.mkdir()
    folder.mkdir()
    (bin_ / "apt-get").write_text(
        '#!/bin/sh\nshift 2\ncase "$*" in *gone*) exit 100;; esac\n'
        'for one in "$@"; do : > "${one%%=*}_1_all.deb"; done\n'
    )
    (bin_ / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(bin_), prepend=":")
    packages = [Package(name, "1", name, "doc", 9) for name in ("a-doc", "gone-doc", "b-doc")]
    found = corpus_packages.download(packages, folder)
    assert found == {name: folder / f"{name}_1_all.deb" for name in ("a-doc", "b-doc")}
