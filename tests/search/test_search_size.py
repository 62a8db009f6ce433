"""An index takes what its data take, and a query what a query takes: no JAX, no whole network."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from importlib.resources import files

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_index import TINY, sample

from sparse_jax import search
from sparse_jax.search import arrays, draw, network, taught
from sparse_jax.search.documents import Lines
from sparse_jax.search.parameters import narrow, widen

pytestmark = pytest.mark.usefixtures("quick_compiles")

QUERIES = ("python library", "unseenword zorblax", "plank dock of fonts")


def scores(index: search.Index) -> list[list[tuple[str, float]]]:
    return [[(r.id, r.score) for r in index.search(q, k=5)] for q in QUERIES]


def size(folder) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.slow
@pytest.mark.usefixtures("optimized_compiles")
def test_the_size_follows_the_data(tmp_path):
    text = (files("sparse_jax.search") / "sample.jsonl").read_bytes()
    with search.fit(sample()) as index:  # of the default size: 134 MB of parameters
        index.save(tmp_path / "i")
        expected = scores(index)
    assert size(tmp_path / "i") < 3 * len(text) + (4 << 20)
    with search.load(tmp_path / "i", read_only=True) as again:
        assert scores(again) == expected
        assert again._engine.stored is not None  # and it took no network to say so
        assert again._engine.network.embedding.shape == (1 << 18, 128)
        assert scores(again) == expected


@pytest.mark.slow
@pytest.mark.usefixtures("optimized_compiles")
def test_a_trained_index_stays_small(tmp_path):
    rng = np.random.default_rng(0)
    words = np.array([w for d in sample() for w in d.text.split()])
    texts = [" ".join(rng.choice(words, 60)) for _ in range(400)]
    config = search.Config(num_features=1 << 16, train_from=400, cold_steps=2, cold_batch=64)
    with search.fit(
        [search.Document(str(i), t) for i, t in enumerate(texts)], config=config
    ) as made:
        assert made._engine.trained
        made.save(tmp_path / "i")
        expected = scores(made)
    assert size(tmp_path / "i") < 3 * sum(len(t) for t in texts) + (4 << 20)
    with search.load(tmp_path / "i", read_only=True) as again:
        assert scores(again) == expected


def test_rows_in_eight_bits_come_back_as_they_are():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(500, 24)).astype(np.float32) * np.exp2(
        rng.integers(-20, 20, (500, 1))
    ).astype(np.float32)
    rows[7] = 0
    levels, scales = narrow(rows)
    wide = widen(levels, scales, slice(None))
    assert wide.dtype == np.float32 and levels.dtype == np.int8
    assert (np.abs(wide - rows) <= np.abs(rows).max(axis=1, keepdims=True) / 250).all()
    again = narrow(wide)
    np.testing.assert_array_equal(again[0], levels)
    np.testing.assert_array_equal(again[1], scales)
    np.testing.assert_array_equal(widen(levels, scales, np.array([3, 3])), wide[[3, 3]])


@pytest.mark.parametrize("number", [3, 4])
@pytest.mark.parametrize("is_saved", [True, False])
def test_an_index_of_an_earlier_format_is_laid_anew(tmp_path, monkeypatch, number, is_saved):
    """Its features were hashed otherwise: documents and lessons are what is left of it."""
    rows = sample()[:60]
    with search.fit(rows, config=TINY) as index:
        index.save(tmp_path / "i")
        index.upvote("zorblax", rows[3].id)
        if is_saved:
            index.save()
        expected = scores(index)
    manifest = tmp_path / "i" / "manifest.json"
    folder = tmp_path / "i" / json.loads(manifest.read_text())["snapshot"]
    manifest.write_text(manifest.read_text().replace('"format": 5', f'"format": {number}'))
    for file in folder.glob("*.npy"):
        if file.name != "lines.npy":
            file.write_bytes(b"of another kind")

    def refuse(*_):  # what lies beside the log is of features hashed otherwise, too
        raise RuntimeError("must be learned anew")

    monkeypatch.setattr(taught, "_apply", refuse)
    with pytest.warns(UserWarning, match=f"has format {number}: it is laid anew"):
        old = search.load(tmp_path / "i")
    with old:
        assert old.search("zorblax", k=1)[0].id == rows[3].id
        assert [[x for x, _ in one] for one in scores(old)] == [
            [x for x, _ in one] for one in expected
        ]
        before = scores(old)
        old.save()
    with search.load(tmp_path / "i", read_only=True) as new:
        assert scores(new) == before
        assert json.loads(manifest.read_text())["format"] == 5


def test_what_an_earlier_format_left_at_its_default_is_at_that_of_today(tmp_path):
    rows = sample()[:20]
    former = {"kind_weights": (1.0, 1.0, 0.5), "k1": 0.8, "b": 0.5, "strong": 2.0}
    former |= {"bm25_k1": 1.2, "bm25_b": 0.75, "deep_weight": 0.3}
    cases = (former, search.Config()), (former | {"k1": 0.9}, search.Config(k1=0.9))
    for given, expected in cases:
        place = tmp_path / str(given["k1"])
        with search.fit(rows, config=dataclasses.replace(TINY, **given)) as index:
            index.save(place)
        manifest = place / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format": 5', '"format": 4'))
        with pytest.warns(UserWarning, match="has format 4"):
            found = search.load(place, read_only=True)._engine.config
        for name in former:
            assert getattr(found, name) == getattr(expected, name)
        assert found.num_features == TINY.num_features


def test_equal_documents_have_equal_scores():
    """Whatever stands around them: a product of BLAS depends on where a row stands."""
    for count in (3, 7, 14, 37):
        rows = [search.Document(f"x{n}", "red apples grow on old trees") for n in range(count)]
        rows += [search.Document(f"y{n}", f"cars need fuel number {n}") for n in range(count)]
        rows = [rows[i] for i in np.random.default_rng(count).permutation(len(rows))]
        index = search.fit(rows, config=TINY)
        for query in ("apple tree", "old red fuel", "growing"):
            for found in (index.search(query, k=99), index.search_batch([query] * 3, k=99)[1]):
                assert len({r.score for r in found if r.id[0] == "x"}) == 1
            like = search.related(index, "y0", k=99)
            assert len({r.score for r in like if r.id[0] == "x"}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("train_from", [1000, 100])
def test_what_was_learned_is_kept_to_the_bit(tmp_path, train_from):
    config = search.Config(
        num_features=1 << 13, dim=16, train_from=train_from, cold_steps=2, cold_batch=32
    )
    with search.fit(sample()[:120], config=config) as index:
        index.save(tmp_path / "i")
        before, kept = size(tmp_path / "i"), index._engine.pack()
        assert kept.rows.dtype == np.int8 and not kept.taught_ids.size
        frequent = index._engine.wide.document_frequency >= 4  # rarer rows are drawn
        assert kept.ids.size == (np.count_nonzero(frequent) if train_from == 100 else 0)
        index.upvote("zorblax unseenword", "libplank-doc")
        index.associate("qqqq", "plank dock")
        expected, whole = scores(index), index._engine.network
        index.save()
        assert size(tmp_path / "i") - before < (1 << 20)
    with search.load(tmp_path / "i") as again:
        assert scores(again) == expected
        assert again.explain("zorblax dock", "libplank-doc") == index.explain(
            "zorblax dock", "libplank-doc"
        )
        for name in ("embedding", "gain"):
            found = np.asarray(getattr(again._engine.network, name))
            np.testing.assert_array_equal(found, getattr(whole, name))
        again.upvote("wobblyfoo", "libplank-doc")
        again.save()
    with search.load(tmp_path / "i") as third:
        assert third.search("wobblyfoo", k=1)[0].id == "libplank-doc"


def test_a_query_needs_neither_jax_nor_other_libraries(tmp_path):
    with search.fit(sample()[:50], config=TINY) as index:
        index.save(tmp_path / "i")
        expected = [r.id for r in index.search("python library", k=3)]
    code = (
        "import sys; from sparse_jax.commands.main import main; "
        "code = main(sys.argv[1:]); "
        "heavy = {'jax', 'jaxlib', 'optax', 'scipy', 'bm25s', 'tqdm', 'starlette', 'regex'}; "
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    command = ["search", "query", str(tmp_path / "i"), "python library", "-k", "3", "--json"]
    found = subprocess.run(
        [sys.executable, "-c", code, *command], capture_output=True, text=True, check=True
    )
    assert found.stderr.strip() == "0 []"
    assert [json.loads(line)["id"] for line in found.stdout.splitlines()] == expected


def test_documents_are_read_one_by_one(tmp_path):
    with search.fit(sample()[:50], config=TINY) as index:
        index.save(tmp_path / "i")
    with search.load(tmp_path / "i", read_only=True) as again:
        assert len(again) == 50 and again.search("library", k=3)
        assert again._documents._items == []
        assert again.get(sample()[7].id) == sample()[7]
    lines = next((tmp_path / "i").rglob("documents.jsonl"))
    offsets = np.load(lines.with_name("lines.npy"))
    content = lines.read_bytes()
    lines.write_bytes(content[: offsets[3]] + b"?" + content[offsets[3] + 1 :])
    damaged = Lines(lines, offsets)
    assert damaged[2] == sample()[2]
    with pytest.raises(ValueError, match=r"documents\.jsonl, line 4 is damaged"):
        damaged[3]
    lines.write_bytes(content[:-1])
    with pytest.raises(ValueError, match="is damaged"):
        search.load(tmp_path / "i")


# -------------------------------------------------------------------------------------------- rows


@pytest.mark.parametrize("seed", [0, 7, 2**31 + 5])
def test_rows_are_drawn_one_by_one_or_at_once(seed):
    key, shape = jax.random.key(seed), (300, 24)
    counters = np.arange(300 * 24, dtype=np.uint32).reshape(shape)
    found = draw.bits(seed, np.zeros_like(counters), counters)
    np.testing.assert_array_equal(found, jax.random.bits(key, shape, jnp.uint32))
    rows = draw.rows(seed, np.arange(300), 24)
    right = jax.random.normal(key, shape, jnp.float32) * np.float32(24**-0.5)
    np.testing.assert_allclose(rows, right, atol=2e-7)
    ids = np.array([299, 0, 7, 7])
    np.testing.assert_array_equal(draw.rows(seed, ids, 24), rows[ids])
    values = draw.normals()
    assert values.size == 1 << 23 and np.isfinite(values).all()
    compiled = network._drawn(values, seed=seed, shape=shape)
    np.testing.assert_array_equal(compiled, rows)


def test_a_counter_may_exceed_32_bits():
    ids = np.array([2**31 - 1, 5])
    rows = draw.rows(3, ids, 64)
    assert np.abs(rows).max() < 1 and not np.array_equal(rows[0], rows[1])


def test_arrays_are_read_as_they_were_written(tmp_path):
    given = {
        "a.b": np.arange(6, dtype=np.float32).reshape(2, 3),
        "none": np.zeros((0, 4), np.int32),
        "one": np.array(2.5, np.float32),
    }
    arrays.write(tmp_path, given)
    found = arrays.read(tmp_path)
    assert found.keys() == given.keys()
    for name, array in given.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    with pytest.raises(ValueError, match="read-only"):
        found["a.b"][0] = 1
