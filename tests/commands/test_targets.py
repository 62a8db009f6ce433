"""A folder holds one thing: no model is written beside a search index, no index beside a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from in_process import call

from sparse_jax.commands import main as program
from sparse_jax.commands.checks import check_target
from sparse_jax.runtime import saved

ARPA = "\\data\\\nngram 1=3\n\n\\1-grams:\n-99\t<s>\n-0.3\t</s>\n-0.3\ta\n\n\\end\\\n"
PAIRS = "".join(json.dumps({"document": f"a b {i}.", "summary": "a"}) + "\n" for i in range(9))
WRITERS = {
    "arpa": ["lm", "arpa", "FILE", "DIR"],
    "lm": ["lm", "train", "FILE", "--checkpoint", "DIR"],
    "points": ["xmc", "train", "FILE", "--model", "DIR"],
    "shards": ["xmc", "train-sharded", "FILE", "--model", "DIR"],
    "table": ["xmc", "train", "FILE", "--target", "y", "--model", "DIR"],
    "updated": ["xmc", "update", "MODEL", "FILE", "--output", "DIR"],
    "recommender": ["recommend", "train", "FILE", "--model", "DIR"],
    "pairs": ["summarize", "train", "FILE", "--out", "DIR"],
    "tuned": ["lm", "preference", "MODEL", "--save", "DIR"],
}


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A folder with a search index, as far as its manifest says."""
    folder = tmp_path_factory.mktemp("index")
    about = {"format": 5, "snapshot": "snapshot-1", "log": "log-1.jsonl"}
    (folder / "manifest.json").write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("name", WRITERS)
def test_no_model_is_written_beside_a_search_index(name, indexed, tmp_path, capsys):
    file = tmp_path / ("m.arpa" if name == "arpa" else "x.jsonl")
    file.write_text(ARPA if name == "arpa" else PAIRS)
    model = tmp_path / "model"
    saved.save(model, kind="xmc", config={}, arrays={"w": np.ones(3)})
    places = {"FILE": str(file), "DIR": str(indexed), "MODEL": str(model)}
    status, out, err = call(program, capsys, *(places.get(x, x) for x in WRITERS[name]))
    assert status == 2 and not out, err
    assert f"{indexed} holds a search index: name another directory" in err
    assert [path.name for path in indexed.iterdir()] == ["manifest.json"]


def test_no_index_is_made_beside_a_model(tmp_path, capsys):
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "red apples"}\n')
    saved.save(tmp_path / "m", kind="lm", config={}, arrays={"w": np.ones(3)})
    before = sorted((tmp_path / "m").iterdir())
    status, _, err = call(
        program, capsys, "search", "index", str(tmp_path / "m"), str(tmp_path / "d.jsonl")
    )
    assert status == 2 and "holds a model of kind 'lm': name another directory" in err
    assert sorted((tmp_path / "m").iterdir()) == before


@pytest.mark.parametrize("text", ['{"layers": 3}', "no JSON"])
def test_an_index_is_not_made_beside_what_would_be_taken_for_a_model(text, tmp_path, capsys):
    """The cure was to save the model anew, which is another program's."""
    (tmp_path / "d.jsonl").write_text('{"id": "a", "text": "red apples"}\n')
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "model.json").write_text(text)
    given = str(tmp_path / "m"), str(tmp_path / "d.jsonl")
    status, _, err = call(program, capsys, "search", "index", *given)
    assert status == 2 and "a model.json of another program, or a damaged one: name" in err
    assert "anew" not in err and [p.name for p in (tmp_path / "m").iterdir()] == ["model.json"]


def test_what_else_is_called_a_manifest_stands_in_nobodys_way(tmp_path):
    (tmp_path / "manifest.json").write_text('{"name": "a page", "icons": []}')
    check_target(str(tmp_path), kind="lm")
