"""`search index` and `search query` on documents as people have them."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import zipfile

import pytest
from document_files import CSV, NOTES, PAGE, pdf, word, write
from small_index import TINY

from sparse_jax import search
from sparse_jax.commands import search as command

pytest.importorskip("docx")
pytest.importorskip("bs4")
pytest.importorskip("markdown_it")
pytest.importorskip("pypdf")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Indexes that commands make are small."""
    monkeypatch.setattr(search, "Config", lambda **more: dataclasses.replace(TINY, **more))


@pytest.fixture
def run(capsys):
    def act(*args: object) -> tuple[int, str, str]:
        code = command.main([str(arg) for arg in args])
        return code, *capsys.readouterr()

    return act


def ids(out: str) -> list[str]:
    return [json.loads(line)["id"] for line in out.splitlines()]


def test_a_folder_with_a_broken_file(tmp_path, run):
    folder = write(
        tmp_path / "f",
        notes__md=NOTES,
        page__html=PAGE,
        letter__docx=word(),
        boats__pdf=pdf("Boats float", "Ships sink"),
        cut__pdf=b"%PDF-1.4 and no more",
        picture__png=b"\x89PNG",
    )
    code, out, err = run("index", tmp_path / "i", folder)
    assert code == 0 and out.startswith("9 documents added")
    assert err.splitlines()[0] == "1 files of other kinds were left out: .png 1"
    assert err.splitlines()[1] == "1 file could not be read:"
    assert err.splitlines()[2].startswith("  cut.pdf: is damaged, or no pdf")
    code, out, _ = run("query", tmp_path / "i", "where do ships sink", "-k", "1", "--json")
    found = json.loads(out)
    assert found["id"] == "boats.pdf#page=2" and found["metadata"]["page"] == 2
    where = ("--where", "path=notes.md")
    code, out, _ = run("query", tmp_path / "i", "apt", "--json", *where)
    assert ids(out)[0] == "notes.md#linux" and len(ids(out)) == 3
    # Again, changed: the same ids are replaced.
    write(folder, letter__docx=word(), boats__pdf=pdf("Boats float", "Submarines dive"))
    (folder / "cut.pdf").unlink()
    assert run("index", tmp_path / "i", folder)[0] == 2
    code, out, err = run("index", tmp_path / "i", folder, "--replace")
    assert code == 0 and "9 in" in out and "could not" not in err
    code, out, _ = run("query", tmp_path / "i", "submarines", "-k", "1", "--json")
    assert ids(out) == ["boats.pdf#page=2"]
    # A page less: what it held is found no more.
    write(
        folder, boats__pdf=pdf("Boats float", ""), notes__md=NOTES.replace("# Install", "Install")
    )
    code, out, err = run("index", tmp_path / "i", folder, "--replace")
    assert code == 0 and "8 in" in out, (out, err)
    with search.load(tmp_path / "i", read_only=True) as index:
        assert "boats.pdf#page=2" not in search.list_ids(index)
        assert search.list_ids(index, where={"path": "boats.pdf"}) == ["boats.pdf"]


def test_a_table_with_columns_by_name(tmp_path, run):
    write(tmp_path, books__csv=CSV.replace("body", "story"))
    book = tmp_path / "books.csv"
    code, _, err = run("index", tmp_path / "i", book)
    assert code == 2 and "none of the columns" in err and "--text NAME" in err
    assert not (tmp_path / "i").exists()
    assert run("index", tmp_path / "i", book, "--text", "story")[0] == 0
    code, out, _ = run("query", tmp_path / "i", "cars", "--where", "year>=2006", "--json")
    assert code == 0 and ids(out) == ["8"]
    code, _, err = run("query", tmp_path / "i", "cars", "--where", "code<5")
    assert code == 2 and "must be a string, as the documents have there" in err


def test_options_that_are_not_there_are_refused(tmp_path, run, capsys):
    for args in (["query", "i", "x", "--wher", "a=1"], ["index", "i", "f", "--column", "a"]):
        with pytest.raises(SystemExit) as stopped:
            command.main(args)
        assert stopped.value.code == 2
    assert "unrecognized arguments" in capsys.readouterr().err


def test_characters_that_cannot_be_read_are_spoken_of(tmp_path, run):
    folder = write(tmp_path / "f", a__txt="Brücke".encode("latin1"), b__txt="Brücke", c__txt="red")
    _, _, err = run("index", tmp_path / "i", folder)
    assert err.startswith("1 files have characters that can't be read and won't be found, as a.txt")


def test_a_word_document_without_a_title_is_named_by_its_file(tmp_path, run):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(word())) as whole, zipfile.ZipFile(file, "w") as bare:
        for name in whole.namelist():
            content = whole.read(name)
            if name == "_rels/.rels":
                content = re.sub(rb"<Relationship [^>]*core-properties[^>]*/>", b"", content)
            if name == "word/document.xml":
                content = content.replace(b"Orchards", b"")
            if name != "docProps/core.xml":
                bare.writestr(name, content)
    folder = write(tmp_path / "f", letter__docx=file.getvalue(), other__txt="red")
    run("index", tmp_path / "i", folder)
    _, out, _ = run("query", tmp_path / "i", "orchard", "--json")
    assert "Word Document" not in out
