"""Faults that public bug reports of other tools led to, in what is read. Rows: see README.md."""

from __future__ import annotations

import codecs
import gzip
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from in_process import call
from small_points import points_of

from sparse_jax import data, search, xmc
from sparse_jax.commands import main as program
from sparse_jax.data.plain import read as read_text
from sparse_jax.lm.preference import pairs

pytestmark = pytest.mark.usefixtures("quick_compiles")

JSON = '{"id": "ä", "text": "red äpfel", "prompt": "q", "chosen": "yes", "rejected": "no"}\n'
NOW = "".join(JSON.replace('"q"', f'"q{i}"') for i in range(40))
READERS = {
    "points": ("2 9 4\n1,3 0:1 7:2.5\n 8:1\n", lambda p: data.read_xmc(p).feature_values.tolist()),
    "names": ("rot\ngrün\nblau\n", data.read_names),
    "json lines": (JSON, lambda p: list(search.read_jsonl(p))),
    "pairs": (NOW, lambda p: pairs.read(p).train),
    "text": ("rote Äpfel\nund\n", lambda p: read_text(p).text),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_reader_takes_or_names_an_encoding(name, suffix, tmp_path):
    content, read = READERS[name]
    path = Path(tmp_path, f"x{suffix}")

    def write(raw: bytes) -> Path:
        path.write_bytes(gzip.compress(raw) if suffix else raw)
        return path

    right = read(write(content.encode()))
    assert right and read(write(codecs.BOM_UTF8 + content.encode())) == right
    assert read(write(content.replace("\n", "\r\n").encode())) == right or name == "text"
    for encoding, mark in (
        ("utf-16-le", codecs.BOM_UTF16_LE),
        ("utf-16-be", codecs.BOM_UTF16_BE),
        ("utf-32-le", codecs.BOM_UTF32_LE),
    ):
        write(mark + content.encode(encoding))
        try:
            assert read(path) == right
        except ValueError as error:
            assert str(path) in str(error) and encoding[:6].upper() in str(error)
    write(content.encode("utf-16-le"))  # without a mark
    with pytest.raises(ValueError, match="x"):
        assert read(path) == right


@pytest.mark.parametrize(
    "text", ["हिन्दी किताब", "தமிழ் மொழி", "ไทย ภาษา", "ខ្មែរ ភាសា", "한국어 책", "བོད་ཡིག", "عربي نص"]
)
def test_words_of_points_keep_their_marks(text):
    vocabulary = data.Vocabulary.fit([text], min_count=1)
    points = vocabulary.transform([text, unicodedata.normalize("NFD", text)])
    words = np.split(points.feature_ids, points.feature_offsets[1:-1])
    assert vocabulary.num_features == len(text.replace("་", " ").split()) > 1
    assert sorted(words[0]) == sorted(words[1]) == list(range(vocabulary.num_features))


ZERO, NO_LABELS = "0 30 6\n", "3 30 6\n 1:1\n 2:1\n 3:1\n"
GOOD = "60 30 6\n" + "".join(f"{i % 6} {i % 6}:1 {6 + i % 7}:1\n" for i in range(60))


@pytest.mark.parametrize("content", [ZERO, NO_LABELS, ""])
@pytest.mark.parametrize("options", [[], ["--preset", "accurate"], ["--hidden", "8"]])
def test_files_without_points_are_named_before_training(content, options, tmp_path, capsys):
    good, bad = tmp_path / "good.txt", tmp_path / "bad.txt"
    good.write_text(GOOD)
    bad.write_text(content)
    for files in ((bad,), (good, "--test", bad)):
        given = [str(x) for x in files]
        status, _, err = call(program, capsys, "xmc", "train", *given, *options)
        assert status == 2 and err.startswith("error: ") and "\n" not in err.strip()
        assert "bad.txt" in err
        assert content != ZERO or "has no points" in err


@pytest.mark.parametrize("preset", ["fast", pytest.param("accurate", marks=pytest.mark.slow)])
def test_rows_of_every_odd_kind_train(preset):
    rows = [({i % 3}, {i % 3: 1.0, 3 + i % 4: 2.0}) for i in range(60)]
    for odd in (
        [(set(), {})],
        [(set(), {})] * 40,  # twice as many as all others
        [(set(), {0: 1.0})],
        [({0, 1, 2}, {})],
        [({0}, {0: 0.0, 1: 0.0})],
        [({0}, {0: 3e38, 1: 1e-45})],
        [({1}, {0: -1.0})],
    ):
        points = points_of(rows + odd * 3, 9, 3)
        model = xmc.fit(points, preset=preset)
        for k in (1, 3):
            labels, chances = xmc.predict(model, points, k=k)
            assert np.isfinite(chances).all() and ((0 <= labels) & (labels < 3)).all()
        assert np.mean(labels[:60, 0] == np.arange(60) % 3) > 0.95
