"""Sets built from a made-up miniature of a Debian mirror's indexes."""

from __future__ import annotations

import gzip
import hashlib
import json

import build_xmc_sets
import numpy as np
import pytest
from in_process import call
from xmc_sets import debian, embedding, lists, writing

from sparse_jax import data

FAMILIES = 80  # source packages, each of a library and its headers
COLOURS = ("red", "green", "blue", "amber")


def _write_lists(directory):
    packages, english, german, sources, paths = [], [], [], [], []
    for i in range(FAMILIES):
        colour, other = COLOURS[i % 4], COLOURS[(i + 1) % 4]
        sources.append(
            f"Package: fam{i}\nBuild-Depends: debhelper-compat (= 13), lib{colour}-dev [amd64] |\n"
            f" lib{other}-dev:any <!nocheck>\n"
        )
        for kind in ("bin", "dev"):
            name = f"fam{i}-{kind}"
            packages.append(
                f"Package: {name}\nSource: fam{i} (1.0-{i})\nDepends: lib{colour} (>= 2) | "
                f"lib{other}, libc6\nTag: role::{kind}, made-of::{colour},\n special::auto\n"
            )
            english.append(
                f"Package: {name}\nDescription-md5: 0\nDescription-en: {colour} thing\n"
                f" Paints things {colour}.\n .\n Free of {other}.\n"
            )
            german.append(f"Package: {name}\nDescription-de: Ding\n Färbt {colour}.\n")
            paths.append(f"usr/share/doc/{name}/copyright      misc/{name}")
            for stem in (colour, "index", f"only{i}"):
                paths.append(f"usr/lib/{colour} dir/{stem}.so.1   libs/{name},misc/absent")
    paths.append("usr/bin/absent   misc/absent")
    head = "mirror_dists_x_main_"
    for name, blocks in (
        ("binary-amd64_Packages", packages),
        ("i18n_Translation-en", english),
        ("i18n_Translation-de", german),
        ("source_Sources", sources),
    ):
        (directory / f"{head}{name}").write_text("\n".join(blocks), encoding="utf8")
    (directory / f"{head}Contents-amd64").write_text("\n".join(paths) + "\n", encoding="utf8")


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    directory = tmp_path_factory.mktemp("lists")
    _write_lists(directory)
    return directory


@pytest.fixture(scope="module")
def built(indexes, tmp_path_factory):
    directory = tmp_path_factory.mktemp("sets")
    assert build_xmc_sets.main([str(directory), "--lists", str(indexes)]) == 0
    return directory


def _names(path):
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def test_all_sets_are_read_and_fit_their_names(built):
    manifest = json.loads((built / "manifest.json").read_text())
    assert list(manifest) == sorted(debian.SETS)
    for name, entry in manifest.items():
        train = data.read_xmc(built / f"{name}_train.txt.gz")
        test = data.read_xmc(built / f"{name}_test.txt.gz")
        assert (train.num_points, test.num_points) == (entry["train"], entry["test"])
        assert train.num_labels == test.num_labels == len(_names(built / f"{name}_labels.txt.gz"))
        assert (np.diff(train.label_offsets) > 0).all() and (
            np.diff(test.feature_offsets) > 0
        ).all()
        least = np.bincount(train.label_ids, minlength=train.num_labels).min()
        assert least >= debian.SETS[name].min_labels
        for file, digest in entry["sha256"].items():
            lines = gzip.decompress((built / file).read_bytes())
            assert hashlib.sha256(lines).hexdigest() == digest
    assert not list(built.glob("*.tmp"))


def test_what_points_say(built, indexes):
    words = _names(built / "debian-tags_vocab.txt.gz")
    labels = _names(built / "debian-tags_labels.txt.gz")
    assert labels == sorted(
        [*(f"made-of::{c}" for c in COLOURS), "role::bin", "role::dev"]
    )  # special:: is none
    train = data.read_xmc(built / "debian-tags_train.txt.gz")
    first = slice(train.feature_offsets[0], train.feature_offsets[1])
    found = {
        words[i]: v
        for i, v in zip(train.feature_ids[first], train.feature_values[first], strict=True)
    }
    colour = next(labels[i] for i in train.label_ids[:2] if "made-of" in labels[i])[9:]
    assert found[colour] == 2 and found["paints"] == 1
    assert {"färbt", "ding"} <= {*_names(built / "debian-tags-german_vocab.txt.gz")}
    wanted = next(debian.files_depends(lists.Lists(indexes)))
    assert wanted.group == "fam0" and wanted.labels == ["libred", "libgreen", "libc6"]
    assert wanted.features["red"] == 4 and wanted.features["dir"] == 3
    builds = next(debian.embedded_build(lists.Lists(indexes)))
    assert builds.labels == ["debhelper-compat", "libred-dev", "libgreen-dev"]
    stems = next(iter(debian.directories(lists.Lists(indexes))))
    assert "index" in stems.labels and set(stems.features) >= {"usr", "lib", "dir"}
    assert all("copyright" not in p.labels for p in debian.directories(lists.Lists(indexes)))


def test_groups_stay_on_one_side_but_equal_points_do_not(built, indexes):
    read = lists.Lists(indexes)
    sides = {p.group: debian.digest(p.group) % writing.TEST_SHARE for p in debian.tags(read)}
    held = sum(side == 0 for side in sides.values())
    test = data.read_xmc(built / "debian-tags_test.txt.gz")
    assert 0 < held < FAMILIES and test.num_points == 2 * held
    rows = [
        {line.split(" ", 1)[1] for line in _names(built / f"debian-sources_{part}.txt.gz")[1:]}
        for part in ("train", "test")
    ]
    assert rows[0] & rows[1]


def test_same_indexes_same_bytes(built, indexes, tmp_path, capsys):
    status, out, _ = call(
        build_xmc_sets, capsys, str(tmp_path), "--lists", str(indexes), "--only", "debian-build"
    )
    assert status == 0 and out.startswith("debian-build: ")
    again = sorted(tmp_path.glob("*.gz"))
    assert len(again) == 3  # dense: no words
    for path in again:
        assert path.read_bytes() == (built / path.name).read_bytes()


def test_embedding_brings_texts_of_one_kind_together():
    texts = [["sea", "ship", f"a{i}"] for i in range(6)] + [
        ["code", "bug", f"b{i}"] for i in range(6)
    ]
    vectors = embedding.embed([*texts, ["ship", "port"], ["port", "sea"], ["bug", "fix"]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=0.02)
    near = vectors @ vectors.T
    assert near[:6, :6].mean() > 0.3 > near[:6, 6:12].mean() + 0.3
    # No word in common, but words that stand beside the same ones.
    apart = embedding.embed([*texts, ["ship"], ["sea"], ["bug"]])[-3:]
    assert apart[0] @ apart[1] > apart[0] @ apart[2] + 0.3


def test_embedding_of_nothing():
    assert embedding.embed([]).shape == (0, embedding.WIDTH)
    assert not embedding.embed([[], ["a"]])[0].any()


def test_errors(tmp_path, capsys, indexes):
    status, _, err = call(build_xmc_sets, capsys, str(tmp_path), "--lists", str(tmp_path))
    assert status == 2 and "_Translation-en" in err and "leave out --lists" in err
    status, _, err = call(build_xmc_sets, capsys, str(tmp_path), "--only", "no")
    assert status == 2 and "--only no: must be of debian-tags" in err
    with pytest.raises(ValueError, match="no points for train"):
        writing.write(tmp_path, "none", debian.SETS["debian-tags"], [])
    assert not list(tmp_path.glob("*.gz"))


@pytest.mark.parametrize(
    ("field", "names"),
    [
        ("", []),
        ("a (>= 1:2.0), b | c [amd64],\nd:any <!cross>, a", ["a", "b", "c", "d"]),
        ("${misc:Depends}, libstdc++6", ["libstdc++6"]),
    ],
)
def test_relations(field, names):
    assert lists.relations(field) == names
