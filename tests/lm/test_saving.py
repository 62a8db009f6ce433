"""Language models on disk: what comes back, what a save that dies leaves, what is refused."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import pytest
from small_lm import CONFIG, V, drawn

from sparse_jax import lm
from sparse_jax.lm import text
from sparse_jax.lm.corpus import Record
from sparse_jax.lm.text import SPECIAL, WordVocabulary
from sparse_jax.runtime import saved

pytestmark = pytest.mark.usefixtures("quick_compiles")

RECORD = Record((text.Source("a.txt", "0" * 64, 7),), train_sha256="1" * 64)
WORDS = WordVocabulary((*SPECIAL, *(f"w{n}" for n in range(V - len(SPECIAL)))))


def finished(seed=0, config=CONFIG) -> lm.LanguageModel:
    return lm.from_state(drawn(seed, config), vocabulary=WORDS, record=RECORD, config=config)


def same(a: lm.LanguageModel, b: lm.LanguageModel) -> bool:
    return jax.tree.all(
        jax.tree.map(lambda x, y: bool(jnp.array_equal(x, y)), a.arrays(), b.arrays())
    )


def test_what_is_saved_comes_back(tmp_path):
    model_ = finished()
    lm.save(model_, tmp_path)
    found = lm.load(tmp_path)
    assert same(found, model_) and found.config == CONFIG and found.record == RECORD
    assert found.vocabulary.words == WORDS.words
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".npz"}
    manifest = tmp_path / saved.MANIFEST
    about = json.loads(manifest.read_text())
    assert about["config"]["model"].pop("dtype") == "float32"
    manifest.write_text(json.dumps(about))
    assert same(lm.load(tmp_path), model_)  # as one that was saved before there was a choice
    bare = dataclasses.replace(CONFIG, rows=0, evidence=False)
    lm.save(finished(config=bare), tmp_path)
    assert lm.load(tmp_path).memory is None
    assert len(list(tmp_path.iterdir())) == 2  # the model before is gone


@pytest.mark.parametrize("stage", ["write_stream", "write_atomically"])
def test_a_save_that_dies_leaves_the_model_before(tmp_path, monkeypatch, stage):
    first = finished()
    lm.save(first, tmp_path)

    def die(*_args):
        raise OSError("No space left on device")

    monkeypatch.setattr(saved, stage, die)
    with pytest.raises(OSError, match="No space"):
        lm.save(finished(seed=1), tmp_path)
    assert same(lm.load(tmp_path), first)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no model\.json"):
        lm.load(tmp_path)
    saved.save(tmp_path, kind="toy", config={}, arrays={})
    with pytest.raises(ValueError, match="kind 'toy'"):
        lm.load(tmp_path)
    lm.save(finished(), tmp_path)
    about = json.loads((tmp_path / "model.json").read_text())
    about["config"]["model"]["depth"] = 3
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"another version \(depth\)"):
        lm.load(tmp_path)
    about["config"]["model"].pop("depth")
    about["config"]["model"]["hidden"] = 32
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"must be float32 \(32, 64\)"):
        lm.load(tmp_path)
