"""`documents.read`: folders, tables and collections of all kinds, as people have them."""

from __future__ import annotations

import gzip
import json
import sys

import pytest
from document_files import CSV, NOTES, PAGE, TREC, pdf, word, write

from sparse_jax.search import documents

pytest.importorskip("docx")
pytest.importorskip("bs4")
pytest.importorskip("markdown_it")
pytest.importorskip("pypdf")


def by_id(reading):
    return {d.id: d for d in reading.documents}


def test_a_folder_of_documents(tmp_path):
    folder = write(
        tmp_path / "f",
        plain__txt="Of cars\n\nCars need fuel.",
        note__txt="just words",
        deep___notes__md=NOTES,
        page__html=PAGE,
        paper__pdf=pdf("Boats float", "Ships sink", title="On boats"),
        letter__docx=word(),
        image__png=b"\x89PNG",
        _hidden="",
        empty__txt=" \n",
    )
    (folder / ".git").mkdir()
    (folder / ".git" / "a.txt").write_text("not this")
    found = documents.read(folder)
    docs = by_id(found)
    assert found.kind == "files" and found.broken == []
    assert {(i, d.title, d.text) for i, d in docs.items()} == {
        ("plain.txt", "Of cars", "Of cars\n\nCars need fuel."),
        ("note.txt", "note", "just words"),
        ("deep/notes.md", "My notes", "Before all."),
        (
            "deep/notes.md#linux",
            "My notes: Install > Linux",
            "Use apt and patience.\nsudo apt install",
        ),
        ("deep/notes.md#linux-1", "My notes: Install > Linux", "Or build it."),
        ("page.html", "Red apples", "They grow on trees."),
        ("page.html#kinds-of-them", "Red apples: Kinds of them", "Boskoop\nElstar & more"),
        ("paper.pdf#page=1", "On boats", "Boats float"),
        ("paper.pdf#page=2", "On boats", "Ships sink"),
        ("letter.docx", "Orchards", "An orchard is planted land."),
        (
            "letter.docx#harvest",
            "Orchards: Harvest",
            "Apples are picked in autumn.\nBoskoop October",
        ),
    }
    assert docs["paper.pdf#page=2"].metadata == {"path": "paper.pdf", "page": 2}
    assert docs["deep/notes.md#linux"].metadata == {
        "path": "deep/notes.md",
        "heading": "Install > Linux",
    }
    assert found.notes == [
        "1 files without a word were left out",
        "2 files of other kinds were left out: no suffix 1, .png 1",
    ]


def test_broken_files_are_named_and_the_rest_is_read(tmp_path):
    folder = write(
        tmp_path,
        good__txt="fine words",
        cut__pdf=pdf("Boats")[:-60][9:],
        scan__pdf=pdf("", ""),
        torn__docx=word()[:500],
        odd__docx=b"no zip at all",
        later__docx=word().replace(b"PK\1\2", b"PK\1\2\xff\xff\xff"),
        bytes__txt=b"a\0b",
        utf16__txt="naïve words".encode("utf-16"),
    )
    (folder / "gone.txt").symlink_to(folder / "nowhere")
    found = documents.read(folder)
    assert sorted(by_id(found)) == ["good.txt", "utf16.txt"]
    reasons = dict(found.broken)
    assert sorted(reasons) == [
        "bytes.txt",
        "cut.pdf",
        "gone.txt",
        "later.docx",
        "odd.docx",
        "scan.pdf",
        "torn.docx",
    ]
    assert "scans" in reasons["scan.pdf"] and "NUL" in reasons["bytes.txt"]
    assert "damaged" in reasons["torn.docx"] and "is no PDF" in reasons["cut.pdf"]
    assert found.report()[0] == "7 files could not be read:" and len(found.report()) == 8
    (tmp_path / "only").mkdir()
    (tmp_path / "only" / "a.pdf").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"no document in it; 1 file could not be read.*a\.pdf"):
        documents.read(tmp_path / "only")


def test_marks_count_more_than_suffixes(tmp_path):
    write(tmp_path, a__txt=pdf("Boats float"), b=word(), c="some words\nof text")
    assert [documents.read(tmp_path / n).documents[0].text for n in ("a.txt", "c")] == [
        "Boats float",
        "some words\nof text",
    ]
    assert documents.read(tmp_path / "b").documents[0].title == "Orchards"


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    write(tmp_path, a__pdf=pdf("Boats"), b__txt="words")
    monkeypatch.setitem(sys.modules, "pypdf", None)
    found = documents.read(tmp_path)
    assert sorted(by_id(found)) == ["b.txt"]
    assert "pip install 'sparse_jax[documents]'" in found.broken[0].reason


# ------------------------------------------------------------------------------------------ tables


def table(tmp_path, name: str, content: str, **options):
    return documents.read(
        write(tmp_path / "t", **{name: content}) / name.replace("__", "."), **options
    )


def test_csv_of_any_columns(tmp_path):
    found = table(tmp_path, "a__csv", CSV)
    assert found.kind == "csv"
    first, second = found.documents
    assert (first.id, first.title, first.text) == ("7", "Red, ripe", "apples\ngrow")
    assert first.metadata == {"year": 2005, "code": "007"} and second.title == ""
    assert table(tmp_path, "b__csv", CSV.replace(",", ";")).documents[1].text == "cars"
    assert table(tmp_path, "c__csv", "\ufeff" + CSV).documents[0].id == "7"
    chosen = table(tmp_path, "a__csv", CSV, id="code", text="Headline", title="body")
    assert [(d.id, d.title) for d in chosen.documents] == [("007", "apples\ngrow"), ("x", "cars")]


def test_tsv_and_json(tmp_path):
    tsv = 'id\tabstract\ta "quote" here\n1\tred "apples\t5"\n\n2\tcars\t\n'
    found = table(tmp_path, "a__tsv", tsv)
    assert (found.kind, found.documents[0].text) == ("tsv", 'red "apples')
    assert (
        found.documents[0].metadata == {'a "quote" here': '5"'} and not found.documents[1].metadata
    )
    rows = [
        {"_id": 4, "body": "apples", "title": None, "year": 1.5, "tags": ["a"], "open": True},
        {"_id": "b", "title": "only a title", "body": None},
        {"_id": "c"},
    ]
    lines = "\n".join(map(json.dumps, rows))
    as_list = json.dumps(rows)
    for name, content in (("a__jsonl", lines), ("a__json", as_list)):
        found = table(tmp_path, name, content)
        assert [(d.id, d.title, d.text) for d in found.documents] == [
            ("4", "", "apples"),
            ("b", "only a title", ""),
        ]
        assert found.documents[0].metadata == {"year": 1.5, "open": True}
        assert found.notes == [
            "1 rows without a text were left out",
            "column 'tags': 1 values are lists or objects, left out",
        ]
    path = tmp_path / "z.jsonl.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    assert len(documents.read(path).documents) == 2


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        (['"red" apples', "cars"], ['"red" apples', "cars"]),
        (['say "red"', '"5" and "6"'], ['say "red"', '"5" and "6"']),
        (['"red apples"', '"a ""car"""'], ["red apples", 'a "car"']),
        (['"red\tapples"', '"two\nlines"'], ["red\tapples", "two\nlines"]),
    ],
)
def test_quotes_in_a_table_parted_by_tabs(tmp_path, cells, texts):
    rows = "".join(f"{n}\t{cell}\n" for n, cell in enumerate(cells))
    found = table(tmp_path, "a__tsv", f"id\ttext\n{rows}")
    assert [d.text for d in found.documents] == texts


def test_what_parts_cells_is_seen_in_more_than_the_header(tmp_path):
    found = table(tmp_path, "a__csv", "id,name;alias,text\n1,a,red\n2,b,cars\n")
    assert [d.text for d in found.documents] == ["red", "cars"]
    long = "id,text\n" + "".join(f'{n},"two\nlines"\n' for n in range(60))
    assert len(table(tmp_path, "b__csv", long).documents) == 60


def test_rows_without_ids_are_named_by_their_lines(tmp_path):
    found = table(tmp_path, "a__csv", "text\nred apples\ncars\n")
    assert [d.id for d in found.documents] == ["2", "3"] and "by their lines" in found.notes[0]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("a__csv", "id,body,abstract\n1,a,b\n", {}, "'body', 'abstract' could be the text.*--text"),
        (
            "a__csv",
            "id,colour,size\n1,a,b\n",
            {},
            r"none of the columns 'id', 'colour', 'size'.*--te",
        ),
        ("a__csv", "id,text\n1,a\n", {"text": "words"}, "text = 'words': must be a column.*'text'"),
        ("a__csv", "docid,pid,text\n1,2,a\n", {}, "'docid', 'pid' could be the id.*--id NAME"),
        ("a__csv", "id,text\n1,a,b\n", {}, "line 2: has 3 cells: must have 2"),
        ("a__csv", "id,text,id\n1,a,b\n", {}, "line 1: columns = .*distinct"),
        ("a__csv", 'id,text\n1,"a\n', {}, "line 2"),
        ("a__jsonl", '{"id": 1, "text": 5}\n', {}, "line 1: text = 5: must be a string"),
        ("a__jsonl", '{"id": 1.5, "text": "a"}\n', {}, "line 1: id = 1.5"),
        ("a__jsonl", '{"id": 1, "text": "a"}\n{"id"\n', {}, "line 2: is no JSON"),
        ("a__jsonl", '{"id": 1, "text": null}\n', {}, "no document in it; 1 rows without"),
        ("a__json", '[{"id": 1, "text": "a"}, 3]', {}, "entry 2: must be an object"),
        ("a__txt", "words\n", {"text": "body"}, "text = 'body': has an effect on csv, tsv, jsonl"),
        ("a__txt", "words\n", {"kind": "odt"}, "kind = 'odt': must be one of files, csv"),
        ("a__txt", "a,b\n1,2\n3,4\n", {}, r'files or csv: say which with kind="files" \(--kind'),
        ("a__bin", b"\0\1\2", {}, "of no kind that is known.*--kind"),
    ],
)
def test_what_cannot_be_read_says_why(tmp_path, name, content, options, message):
    with pytest.raises(ValueError, match=message):
        table(tmp_path, name, content, **options)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file and no folder"):
        documents.read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="a folder without documents"):
        documents.read(tmp_path)


# ------------------------------------------------------------------------------------- collections


def test_beir(tmp_path):
    corpus = '{"_id": "d1", "title": "", "text": "red", "metadata": {"url": "u", "l": [1]}}\n'
    folder = write(tmp_path / "b", corpus__jsonl=corpus + '{"_id": "d2", "title": null}\n')
    (folder / "README.md").write_text("about it")
    found = documents.read(folder)
    assert (found.kind, [d.id for d in found.documents]) == ("beir", ["d1", "d2"])
    assert found.documents[0].metadata == {"url": "u"} and "1 documents have no" in found.notes[0]
    (folder / "more.md").write_text("a document")
    with pytest.raises(ValueError, match=r"may be files or beir: .*--kind files.*--kind beir"):
        documents.read(folder)
    assert [d.id for d in documents.read(folder, kind="files").documents] == [
        "README.md",
        "more.md",
    ]
    assert documents.read(folder, "beir").kind == "beir"


def test_trec(tmp_path):
    folder = write(tmp_path / "t", disk___a=TREC.encode("latin-1"), broken__txt="<DOC>\n<DOCNO>A")
    (folder / "b.gz").write_bytes(
        gzip.compress(b"<DOC>\n<DOCNO>Z</DOCNO><TEXT>zipped</TEXT></DOC>")
    )
    found = documents.read(folder, "trec")
    assert {(d.id, d.title, d.text) for d in found.documents} == {
        ("FT911-3", "Apples & pears", "They grow . Slowly."),
        ("X-2", "", "no text tag café"),
        ("Z", "", "zipped"),
    }
    assert found.broken[0].path == "broken.txt" and "no end" in found.broken[0].reason
    assert documents.read(folder / "disk" / "a").kind == "trec"


def test_msmarco(tmp_path):
    folder = write(
        tmp_path / "m",
        collection__tsv="0\tred apples\n1\tfast cars\n",
        queries__dev__tsv="7\tapples\n",
        qrels__dev__tsv="7\t0\t0\t1\n",
    )
    found = documents.read(folder)
    assert (found.kind, [d.text for d in found.documents]) == (
        "msmarco",
        ["red apples", "fast cars"],
    )
    assert documents.read(folder / "collection.tsv").kind == "msmarco"
    docs = "D1\thttps://a.b\tApples\tred\nD2\thttps://a.c\t\tcars\n"
    found = documents.read(write(tmp_path / "n", **{"msmarco-docs__tsv": docs}))
    assert found.documents[0].metadata == {"url": "https://a.b"}
    assert [d.title for d in found.documents] == ["Apples", ""]
