"""Tables that are nearly of a kind: read right, spoken of, or refused, never texts a line."""

import io
import warnings
import zipfile

import pytest

from sparse_jax import data
from sparse_jax.data import plain


def read(text: str, **said) -> data.Table:
    return data.read(io.BytesIO(text.encode()), **said)


def notes(text: str, **said) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        read(text, **said)
    return [str(note.message) for note in found]


def test_a_first_line_that_may_name_a_column_of_texts_is_no_text_unless_it_is_said():
    file = 'text\n"red, apple"\nfast car\n'
    with pytest.raises(data.FormatError, match=r"fits csv and text.*--kind csv.*--kind text"):
        read(file)
    assert read(file, kind="csv").texts == ("red, apple", "fast car")
    assert len(read(file, kind="text").texts) == 3
    assert read("text\n").texts == ("text",)  # a line alone may be a text
    assert read("texts of mine\nred\n").texts == ("texts of mine", "red")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("text|labels\nred|food\n", r"parted by '\|'"),
        ('{\n"text":"red"\n}\n', "JSON over several lines"),
        ("sep=,\ntext,labels\nred,a\n", "'sep=,' is Excel's"),
        ("text,labels\rred,a\rcar,b\r", "carriage returns alone"),
    ],
)
def test_what_is_no_text_a_line_is_refused(text, said):
    with pytest.raises(data.FormatError, match=f"line 1: .*{said}.*--kind text"):
        read(text)
    assert read(text, kind="text").kind == "text"


@pytest.mark.parametrize("mark", ["|", ";", ","])
def test_labels_that_seem_several_are_spoken_of(mark):
    rows = "".join(f'{i},"{a}{mark} {b}"\n' for i, (a, b) in enumerate(["ab", "ac", "cb"]))
    (note,) = notes(f"text,labels\n{rows}")
    assert f"labels have '{mark}' within" in note
    assert f"--separator '{mark}'" in note
    assert notes(f"text,labels\n{rows}", separator=mark) == []


def test_labels_written_as_lists_are_spoken_of():
    (note,) = notes("text,labels\nred,\"['food', 'red']\"\ncar,['thing']\n")
    assert "labels are written as lists" in note


def test_marks_that_part_nothing_are_not_spoken_of():
    assert notes('text,labels\nred,"Paris, France"\ncar,"Rome; Italy"\nx,\n') == []


def office(name: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(name, "<xml/>")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"%PDF-1.4\n1 0 obj\n", "a PDF"),
        (office("word/document.xml"), "a Word document"),
        (office("xl/workbook.xml"), "an Excel workbook"),
    ],
)
def test_documents_of_office_programs_are_no_texts(content, what):
    for read_it in (
        lambda: data.read(io.BytesIO(content)),
        lambda: data.read(io.BytesIO(content), kind="text"),
        lambda: data.read_histories(io.BytesIO(content)),
        lambda: plain.decode_text(content, "a.bin"),
    ):
        with pytest.raises(ValueError, match=f"line 1: is {what}: must be text"):
            read_it()
